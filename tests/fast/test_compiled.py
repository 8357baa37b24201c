"""A network cut in two is the same network, and compiled code is never run where it does not belong."""

import hashlib
import zipfile
from dataclasses import replace

import pytest
import torch
from torch import nn

from architectures import densenet
from camserve.attribution.methods import METHODS
from camserve.build.mar.unpack import read_contents
from camserve.errors import CompilationUnavailable, ConfigError
from camserve.fast.compiled import TAIL, TRUNK, name_machine
from camserve.fast.split import Split, example, split
from camserve.network.output import ScoringNetwork
from camserve.serving.load import load_classifier
from camserve.settings import CompiledSpec, RuntimeSpec, Settings, load_settings
from camserve.values import Layer
from small_networks import (
    NETWORKS,
    SHAPE,
    Small,
    deep,
    distance,
    objectives_for,
    pictures,
    settle,
    three_linear,
    two_linear,
    watch,
)

CPU = torch.device("cpu")


class Twice(nn.Module):
    """One activation module for two layers; the second call is the target. A skip connection passes the layer by."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 4, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 5)

    def forward(self, pixels):
        low = self.act(self.first(pixels))
        high = self.act(self.second(low))
        return self.head((high + low).mean((2, 3)))


EVERY = {
    **{name: build for name, build in NETWORKS.items() if build not in (two_linear, three_linear)},  # as ``deep`` here
    "second call, skip connection": lambda: Small(settle(Twice()), Layer("act", call=1)),
    "densenet, edited in place": lambda: Small(densenet(), Layer("features")),
}
LARGE = {"class token", "densenet, edited in place"}  # whose export takes seconds
DRAWN = ("gradcam", "reciprocam", "gradient")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.server] * (name in LARGE)) for name in EVERY])
def test_the_two_halves_are_the_network(name, subtests):
    small = EVERY[name]()
    network = ScoringNetwork(small.network).eval().requires_grad_(False)
    halves = split(network, small.layer, example(SHAPE, torch.float32, CPU))
    joined = Split(network, *halves, small.layer)
    assert small.layer.name in dict(joined.named_modules())
    for count in (1, 3):
        objectives = objectives_for(*((row, row) for row in range(count)))
        whole, halved = (watch(Small(form, small.layer), pictures(count), tape=True) for form in (network, joined))
        with subtests.test(f"{count} pictures"):
            assert distance(halved.scores, whole.scores) <= 1e-5
            assert distance(halved.activations, whole.activations) <= 1e-5
            assert distance(halved.gradients(objectives), whole.gradients(objectives)) <= 1e-5
            for method in DRAWN:
                maps = (METHODS[method].run(output, objectives) for output in (halved, whole))
                assert distance(*maps) <= 1e-4, method  # reciprocam subtracts scores


def test_only_the_tail_is_in_the_tail():
    network = ScoringNetwork(deep().network).eval().requires_grad_(False)
    trunk, tail = split(network, Layer("features"), example(SHAPE, torch.float32, CPU))
    assert "conv2d" in trunk.code
    assert "conv2d" not in tail.code
    assert len(list(tail.parameters())) == 4


class Ragged(nn.Module):
    def forward(self, pixels):
        return pixels[:2].flatten(1)[:, :5] * len(pixels)


def test_what_cannot_be_exported_is_not_for_here():
    with pytest.raises(CompilationUnavailable, match="cannot be exported by torch"):
        split(ScoringNetwork(Ragged()), Layer(""), example(SHAPE, torch.float32, CPU))


def test_several_layers_are_refused():
    block = {"model": {"factory": "a:b"}, "input": {}, "layers": [{"name": "a"}, {"name": "b"}]}
    with pytest.raises(ConfigError, match="aot serves one target layer"):
        load_settings({**block, "runtime": {"mode": "aot"}})
    with pytest.raises(ConfigError, match="did you mean 'aot'"):
        RuntimeSpec(mode="aott")


@pytest.fixture
def opened(imagenet, tmp_path):
    """The shipped archive with files in the place of compiled ones, as if it had been built elsewhere."""
    with zipfile.ZipFile(imagenet) as archive:
        archive.extractall(tmp_path)
    for name in (TRUNK, TAIL):
        (tmp_path / name).write_bytes(b"made elsewhere")
    known = hashlib.sha256(b"made elsewhere").hexdigest()

    def settings(where: str) -> Settings:
        read = read_contents(imagenet).settings
        return replace(read, runtime=RuntimeSpec(mode="aot"), compiled=CompiledSpec(where, known, known))

    return tmp_path, settings


def test_code_compiled_for_another_machine_is_not_run(opened, caplog):
    folder, settings = opened
    assert isinstance(load_classifier(folder, settings("torch 1.0, AVX"), CPU).network, ScoringNetwork)
    (warning,) = caplog.records
    assert "compiled for torch 1.0, AVX, and this is torch" in warning.getMessage()


def test_a_changed_compiled_file_stops_the_load(opened):
    folder, settings = opened
    (folder / TRUNK).write_bytes(b"changed since")
    with pytest.raises(ConfigError, match=r"trunk.pt2 has the SHA-256"):
        load_classifier(folder, settings(name_machine(CPU)), CPU)
    with pytest.raises(ConfigError, match="needs an archive that was built with it"):
        load_classifier(folder, replace(settings(""), compiled=None), CPU)


def test_compiled_files_that_do_not_load_leave_the_network_eager(opened, caplog):
    folder, settings = opened
    assert isinstance(load_classifier(folder, settings(name_machine(CPU)), CPU).network, ScoringNetwork)
    assert "cannot load the compiled network" in caplog.text
