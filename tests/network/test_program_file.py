"""A program is data: whatever of it would run code in torch.export.load is refused, at build and at load."""

import io
import json
import os
import pickle
import warnings
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import read_contents
from camserve.build.recipe import Recipe
from camserve.errors import ConfigError
from camserve.files import sha256
from camserve.input_spec import InputSpec
from camserve.network.program import load_program
from camserve.serving.load import load_pipeline
from small_networks import SHAPE, SIDE, pooled

CPU = torch.device("cpu")
GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Touch:
    """An object whose unpickling creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Everything(nn.Module):
    """What programs of real networks hold: a block without gradients, a size of the batch, a text, named outputs."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.register_buffer("shift", torch.ones(8), persistent=False)

    def forward(self, pixels):
        with torch.no_grad():
            half = nn.functional.interpolate(pixels, scale_factor=0.5, mode="bilinear", antialias=True)
        features = torch.relu_(self.inner(pixels)).reshape(pixels.shape[0], 8, -1).mean(2) + self.shift
        features = features + torch.ones((pixels.shape[0] + 1) // 2 + 3).mean()
        return {"logits": self.head(features) + half.mean(), "aux-1": torch.einsum("bchw->bc", pixels)}


class Guarded(nn.Module):
    """A network whose program holds guards, which torch writes as Python."""

    def forward(self, pixels):
        return pixels.mean((2, 3)) * 2 if pixels.shape[0] * 2 < 19 and pixels.shape[0] != 19 else pixels.sum((2, 3))


def export(network, path, batch=None):
    batch = batch or torch.export.Dim("n", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network.eval(), (torch.randn(4, *SHAPE),), dynamic_shapes=({0: batch},))
        torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return export(pooled().network, tmp_path_factory.mktemp("honest") / "model.pt2")


def edit_json(members, name, edit):
    block = json.loads(members[name])
    edit(block)
    members[name] = json.dumps(block).encode()


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickled_examples(members, mark):
    members["data/sample_inputs/model.pt"] = saved(((Touch(mark),), {}))


def pickled_weights(members, mark):
    members["data/weights/model.pt"] = saved({"evil": Touch(mark)})


def pickled_constants(members, mark):
    members["data/constants/model.pt"] = saved({"evil": Touch(mark)})


def pickled_tensor(members, mark):
    members["data/weights/weight_99"] = saved(Touch(mark))
    entry = {"path_name": "weight_99", "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit_json(members, WEIGHTS, lambda block: block["config"].update(evil=entry))


def pickled_object(members, mark):
    members["data/constants/opaque_obj_0"] = pickle.dumps(Touch(mark))
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit_json(members, CONSTANTS, lambda block: block["config"].update(evil=entry))


def python_of(mark):
    return f"__import__('pathlib').Path('{mark}').touch()"


def size(members, mark):
    def edit(block):
        (shape,) = (value["sizes"] for name, value in graph(block)["tensor_values"].items() if name == "pixels")
        shape[0] = {"as_expr": {"expr_str": f"Integer({python_of(mark)} or 2)", "hint": {"as_int": 2}}}

    edit_json(members, GRAPH, edit)


def graph(block):
    return block["graph_module"]["graph"]


def operator(members, mark):
    """torch's own verifier knows its functions by now, and not what its operators do to files."""

    def edit(block):
        values = graph(block)["tensor_values"]
        values["evil"] = next(iter(values.values()))
        words = {"filename": {"as_string": str(mark)}, "shared": {"as_bool": True}, "size": {"as_int": 4}}
        inputs = [{"name": name, "arg": value, "kind": 1} for name, value in words.items()]
        evil = {"target": "torch.ops.aten.from_file.default", "inputs": inputs, "name": "evil", "metadata": {}}
        graph(block)["nodes"].insert(0, {**evil, "outputs": [{"as_tensor": {"name": "evil"}}]})

    edit_json(members, GRAPH, edit)


def guard(members, mark):
    edit_json(members, GRAPH, lambda block: block.update(guards_code=[f"{python_of(mark)} or True"]))


def text(members, mark):
    """torch compares a text that is an input with what it was at export, in Python that it writes."""
    wrong = f"' #\n, '')\n{python_of(mark)}\ndef _(*args):\n  0 #"
    members["data/sample_inputs/model.pt"] = saved(((torch.zeros(4, *SHAPE), wrong), {}))

    def edit(block):
        (entry,) = (entry for entry in block["graph_module"]["module_call_graph"] if entry["fqn"] == "")
        signature = entry["signature"]
        leaf = {"type": None, "context": None, "children_spec": []}
        structure = json.loads(signature["in_spec"])
        structure[1]["children_spec"][0]["children_spec"].append(leaf)
        signature["in_spec"] = json.dumps(structure)
        signature["forward_arg_names"] = ["pixels", "extra"]
        graph(block)["inputs"].append({"as_string": wrong})
        constant = {"constant_input": {"name": "extra", "value": {"as_string": wrong}}}
        block["graph_module"]["signature"]["input_specs"].append(constant)

    edit_json(members, GRAPH, edit)


def name(members, mark):
    wrong = f"pixels, evil={python_of(mark)}"
    members[GRAPH] = members[GRAPH].replace(b'"pixels"', json.dumps(wrong).encode())


ATTACKS = {
    attack.__name__: attack
    for attack in (
        *(pickled_examples, pickled_weights, pickled_constants, pickled_tensor, pickled_object),
        *(size, operator, guard, name, text),
    )
}


def forge(honest, path, attack, mark):
    with zipfile.ZipFile(honest) as source:
        members = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    attack(members, mark)
    with zipfile.ZipFile(path, "w") as target:
        for name, content in members.items():
            target.writestr(f"model/{name}", content)
    return path


@pytest.fixture(params=ATTACKS)
def evil(request, honest, tmp_path):
    mark = tmp_path / "code_ran"
    return forge(honest, tmp_path / "evil.pt2", ATTACKS[request.param], mark), mark


def test_torch_itself_runs_the_code(evil):
    path, mark = evil
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.load(path).module()(torch.zeros(2, *SHAPE))
    assert mark.exists()


def test_no_code_of_a_program_runs(evil):
    path, mark = evil
    with pytest.raises(ConfigError, match=r"evil\.pt2 is refused, as it may run code") as found:
        load_program(path, None, SHAPE)
    assert "\n" not in str(found.value)
    assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_tensors_in_the_old_tar_form_are_refused(honest, tmp_path):
    def old(members, _mark):
        members["data/weights/model.pt"] = b"storages\0"

    with pytest.raises(ConfigError, match="may run code: old file"):
        load_program(forge(honest, tmp_path / "evil.pt2", old, None), None, SHAPE)


def test_native_code_in_a_program_is_not_loaded(honest, tmp_path):
    def native(members, _mark):
        members["data/aotinductor/model/model.so"] = b"native"

    with pytest.raises(ConfigError, match=r"may run code: native code '.*model\.so'"):
        load_program(forge(honest, tmp_path / "evil.pt2", native, None), None, SHAPE)


@pytest.mark.usefixtures("one_process")
def test_neither_building_nor_loading_an_archive_runs_the_code(honest, tmp_path):
    mark = tmp_path / "code_ran"
    wrong = forge(honest, tmp_path / "wrong.pt2", operator, mark)
    recipe = Recipe("program", str(wrong), preprocess=InputSpec(resize=SIDE, crop=SIDE))
    with pytest.raises(ConfigError, match=r"operator 'torch\.ops\.aten\.from_file\.default'"):
        build_archive(recipe, tmp_path / "out", lambda line: None)
    archive = build_archive(replace(recipe, weights=str(honest)), tmp_path / "out", lambda line: None)
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    wrong.replace(folder / "program.pt2")
    settings = read_contents(archive).settings
    forged = replace(settings, model=replace(settings.model, sha256=sha256(folder / "program.pt2")))
    with pytest.raises(ConfigError, match=r"operator 'torch\.ops\.aten\.from_file\.default'"):
        load_pipeline(folder, forged, "program", "1.0", CPU)
    assert not mark.exists()


def test_a_program_of_many_parts_is_read_as_torch_reads_it(tmp_path):
    path = export(Everything(), tmp_path / "many.pt2")
    pixels = torch.randn(3, *SHAPE)
    programs = torch.export.load(path).module(), load_program(path, None, SHAPE)
    expected, found = (program(pixels) for program in programs)
    assert found.keys() == expected.keys() == {"logits", "aux-1"}
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_guards_are_kept(tmp_path):
    program = load_program(export(Guarded(), tmp_path / "x.pt2", torch.export.Dim.AUTO), None, SHAPE)
    assert program(torch.zeros(3, *SHAPE)).shape == (3, 3)
    with pytest.raises(Exception, match="Guard failed"):
        program(torch.zeros(20, *SHAPE))


REFUSED = {
    "function": ("target", "torch.os.system"),
    "function of operator": ("target", "_operator.attrgetter"),
    "file": ("target", "torch.ops.aten.save.default"),
    "attribute": ("target", "torch.ops.aten.__class__.__base__"),
    "argument": ("as_operator", "torch.load"),
    "import": ("in_spec", '[1, {"type": "collections.defaultdict", "context": {}, "children_spec": []}]'),
    "enum": ("out_spec", '[1, {"type": "builtins.dict", "context": [{"__enum__": "os:x"}], "children_spec": []}]'),
    "argument's name": ("forward_arg_names", "x, y=exit()"),
    "quotes": ("parameter_name", 'a", exit(), "'),
    "attribute in a size": ("expr_str", "s0.__class__"),
    "text in a size": ("expr_str", "Symbol('exit()')"),
    "function in a size": ("expr_str", "exit(0)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_part_that_torch_might_run_is_refused(honest, tmp_path, kind):
    key, text = REFUSED[kind]

    def add(members, _mark):
        edit_json(members, GRAPH, lambda block: block.update(unread={key: text}))

    with pytest.raises(ConfigError, match="is refused, as it may run code"):
        load_program(forge(honest, tmp_path / "evil.pt2", add, None), None, SHAPE)


@pytest.mark.usefixtures("one_process")
def test_torchscript_that_writes_files_is_refused(tmp_path):
    class Writes(nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((2, 3)) + torch.from_file(self.path, True, 3)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writes(str(tmp_path / "written"))), tmp_path / "writes.pt")
    recipe = Recipe("writes", str(tmp_path / "writes.pt"), preprocess=InputSpec(resize=SIDE, crop=SIDE))
    with pytest.raises(ConfigError, match="TorchScript that writes files"):
        build_archive(recipe, tmp_path / "out", lambda line: None)
    assert not (tmp_path / "written").exists()
