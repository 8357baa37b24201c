"""Whatever a training loop saved, the network gets its own weights, and nothing in the file is run."""

import argparse
import json
import re
import sys
import tarfile
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import OutputChoice, Recipe
from camserve.build.weights.checkpoint import find_state_dict
from camserve.build.weights.read import read_checkpoint
from camserve.errors import ConfigError
from camserve.network.load import fill
from camserve.values import RawRequest


def network(seed=0):
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


TRAINED = network(1)
STATE = TRAINED.state_dict()


def under(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


OPTIMIZER = torch.optim.Adam(TRAINED.parameters()).state_dict()
CHECKPOINTS = {
    "a state dict": (STATE, ""),
    "a parameter in a dict": (dict(TRAINED.named_parameters()) | dict(TRAINED.named_buffers()), ""),
    "model_state_dict": (
        {"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": OPTIMIZER},
        "took the state dict under 'model_state_dict'",
    ),
    "net": ({"net": STATE, "acc": 0.9}, "took the state dict under 'net'"),
    "a name of one's own": ({"round 7": {"student": STATE}}, "took the state dict under 'round 7.student'"),
    "DataParallel": (
        {"state_dict": under("module.")},
        "took the state dict under 'state_dict', prefix 'module.' stripped",
    ),
    "compiled": (under("_orig_mod."), "prefix '_orig_mod.' stripped"),
    "compiled within": (
        {name.replace("0.", "0._orig_mod.", 1): tensor for name, tensor in STATE.items()},
        "'_orig_mod.' taken out of the names",
    ),
    "Lightning": (
        {"state_dict": {**under("model."), "loss.weight": torch.ones(3)}, "pytorch-lightning_version": "2.4"},
        "took the state dict under 'state_dict', prefix 'model.' stripped, 1 other tensors left out (loss.weight)",
    ),
    "averaged": (
        OrderedDict(n_averaged=torch.tensor(5), **under("module.")),
        "prefix 'module.' stripped, 1 other tensors left out (n_averaged)",
    ),
    "two": (
        {"model": STATE, "ema": network(2).state_dict()},
        "took the state dict under 'model', --weights-key takes another: ema",
    ),
    "another head first": (
        {"teacher": {**STATE, "3.weight": torch.ones(9, 4)}, "model": STATE},
        "took the state dict under 'model', --weights-key takes another: teacher",
    ),
    "numbers and options beside it": (
        {
            "model": STATE,
            "args": argparse.Namespace(lr=0.1, out=Path("runs")),
            "best": np.float64(0.9),
            "curve": np.ones(3, np.float32),
        },
        "took the state dict under 'model'",
    ),
    "before batches were counted": (
        {name: tensor for name, tensor in STATE.items() if "num_batches" not in name},
        "",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_state_dict_is_found_under_any_key_and_prefix_and_said(tmp_path, name):
    saved, expected = CHECKPOINTS[name]
    torch.save(saved, tmp_path / "c.pt")
    filled = network(9)
    weights, assumed = find_state_dict(filled, read_checkpoint(tmp_path / "c.pt"), "c.pt")
    assert ", ".join(assumed) == expected
    fill(filled, weights)
    pixels = torch.randn(1, 3, 8, 8)
    assert torch.equal(filled(pixels), TRAINED(pixels))


def test_a_key_chooses_among_several_state_dicts():
    ema = network(2).state_dict()
    checkpoint = {"model": STATE, "ema": ema}
    weights, _ = find_state_dict(network(), checkpoint, "c.pt", "ema")
    assert torch.equal(weights["3.weight"], ema["3.weight"])
    with pytest.raises(ConfigError, match=r"no state dict under weights_key 'emma'; there is: 'model', 'ema'"):
        find_state_dict(network(), checkpoint, "c.pt", "emma")


def test_a_prefix_is_stripped_only_where_the_networks_names_then_fit():
    nested = nn.ModuleDict({"module": network(1)})
    weights, assumed = find_state_dict(nested, nested.state_dict(), "c.pt")
    assert weights.keys() == nested.state_dict().keys()
    assert assumed == []
    other = {"module.body.weight": torch.ones(1)}
    assert find_state_dict(network(), other, "c.pt")[0].keys() == other.keys()
    with pytest.raises(ConfigError, match=r"missing .*, unexpected .*module\.body\.weight"):
        fill(network(), other)


def test_what_stands_beside_a_fitting_prefix_is_left_out_but_not_what_stands_under_it():
    weights, _ = find_state_dict(network(), under("module.") | {"module.extra.bias": torch.ones(1)}, "c.pt")
    with pytest.raises(ConfigError, match=r"unexpected .*extra\.bias"):
        fill(network(), weights)


class Ours:
    """A class of the training script's own."""


class Trap:
    def __reduce__(self):
        return (print, ("loaded",))


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated, and files made by it stay
        return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}).state_dict()


UNFIT = {
    "a whole module": (
        network,
        r"holds Python objects \(torch.nn",
    ),
    "a class of its script": (lambda: {"model": STATE, "args": Ours()}, r"\(\S+\.Ours\).*--trust-pickle"),
    "code": (lambda: {"weight": Trap()}, "is not unpickled"),
    "quantized": (quantized, "quantized weights .'3._packed_params._packed_params'."),
    "numbers": (lambda: {"a": 1, "b": [2]}, "holds no state dict: save torch.save"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_file_without_plain_weights_is_refused_in_one_line_with_the_remedy(tmp_path, capsys, name):
    make, message = UNFIT[name]
    torch.save(make(), tmp_path / "c.pt")
    with pytest.raises(ConfigError, match=message) as refusal:
        find_state_dict(network(), read_checkpoint(tmp_path / "c.pt"), "c.pt")
    assert re.fullmatch(r"[ -~]{1,400}", str(refusal.value))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["junk.pt", "junk.safetensors"])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, name, trusted):
    (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(ConfigError, match=rf"{name} is no (file of torch.save|safetensors file) .*: save torch.save"):
        read_checkpoint(tmp_path / name, trusted)


def test_the_tar_form_of_old_torch_is_refused(tmp_path):
    (tmp_path / "pickle").write_bytes(b"anything")
    with tarfile.open(tmp_path / "c.pt", "w") as archive:
        archive.add(tmp_path / "pickle")
    with pytest.raises(ConfigError, match=r"c\.pt has the tar form of torch 0\.1, in which code may hide"):
        read_checkpoint(tmp_path / "c.pt")


def test_a_trusted_pickle_of_a_whole_module_gives_its_weights(tmp_path):
    torch.save({"args": Ours(), "model": network(1)}, tmp_path / "c.pt")
    weights, assumed = find_state_dict(network(), read_checkpoint(tmp_path / "c.pt", trust_pickle=True), "c.pt")
    assert all(torch.equal(weights[name], STATE[name]) for name in STATE)
    assert assumed == ["took the state dict under 'model'"]


def test_a_trusted_pickle_whose_classes_are_nowhere_is_refused_in_one_line(tmp_path, monkeypatch):
    torch.save(Ours(), tmp_path / "c.pt")
    monkeypatch.delattr(sys.modules[__name__], "Ours")
    with pytest.raises(ConfigError, match="classes are not importable here"):
        read_checkpoint(tmp_path / "c.pt", trust_pickle=True)


def answer(archive, photo):
    with open_archive(archive) as pipeline:
        return json.loads(pipeline.answer([RawRequest(photo)])[0].body)


def geometry(folder):
    from camserve.input_spec import InputSpec

    return InputSpec(resize=64, crop=64)


@pytest.mark.parametrize("file", ["net.pth", "net.safetensors"])
def test_mnasnet_keeps_the_version_that_its_loading_asks_for(tmp_path, chelsea, file):
    torch.manual_seed(0)
    mnasnet = torchvision.models.mnasnet0_5(num_classes=3).eval()
    save = torch.save if file.endswith("pth") else save_file
    save({f"module.{name}": tensor for name, tensor in mnasnet.state_dict().items()}, tmp_path / file)
    recipe = Recipe(
        "mnasnet",
        str(tmp_path / file),
        "torchvision.models:mnasnet0_5",
        args={"num_classes": 3},
        output=OutputChoice(activation="none"),  # an untrained SqueezeNet's scores lie between 0 and 1
        preprocess=geometry(tmp_path),
    )
    assert answer(build_archive(recipe, tmp_path, lambda line: None, fresh_process=False), chelsea)["predictions"]


def test_half_precision_weights_are_served_as_float32(tmp_path, chelsea):
    lines = []
    torch.manual_seed(0)
    half = torchvision.models.squeezenet1_1(num_classes=3).half()
    torch.save({"net": half.state_dict()}, tmp_path / "half.pt")
    recipe = Recipe(
        "half",
        str(tmp_path / "half.pt"),
        "torchvision.models:squeezenet1_1",
        args={"num_classes": 3},
        output=OutputChoice(activation="none"),  # an untrained SqueezeNet's scores lie between 0 and 1
        preprocess=geometry(tmp_path),
    )
    assert answer(build_archive(recipe, tmp_path, lines.append, fresh_process=False), chelsea)["predictions"]
    assert "half.pt: took the state dict under 'net', float16 numbers, which are served as float32" in lines
