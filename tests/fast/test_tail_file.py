"""A tail that was written and read is the same tail, and none of a file's code is ever run."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import fx, nn

from camserve.errors import CompilationUnavailable, ConfigError
from camserve.fast.compiled import TAIL, read_halves
from camserve.fast.split import Absent
from camserve.fast.tail_file import GRAPH, read_tail_file, write_tail_file
from camserve.network.weights import read_safetensors
from camserve.values import Layer


class Varied(nn.Module):
    """What a tail may hold: tied weights, types, layouts, lists, sizes, infinity, a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.tied = self.head.weight
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, values):
        aten = torch.ops.aten
        rows = aten.sym_size.int(values, 0)
        mean = aten.mean.dim(values, [2, 3], False, dtype=torch.float32)
        flat = aten.view.default(mean, [rows, 2 * 2])
        copied = aten._to_copy.default(flat, layout=torch.strided, device=torch.device("cpu"))
        cloned = aten.clone.default(copied, memory_format=torch.contiguous_format)
        scores = aten.linear.default(cloned, self.tied, self.head.bias)
        masked = aten.masked_fill.Scalar(scores, aten.gt.Scalar(scores, 9.0), -float("inf"))
        return aten.index.Tensor(masked, [None, self.order])


def traced(module):
    return fx.GraphModule(module, fx.Tracer().trace(module))


@pytest.fixture
def written(tmp_path):
    torch.manual_seed(0)
    tail = traced(Varied())
    write_tail_file(tail, tmp_path / TAIL)
    return tail, tmp_path / TAIL


def test_a_tail_is_the_same_when_it_is_read(written):
    tail, path = written
    for rows in (1, 3):
        values = torch.randn(rows, 4, 5, 5)
        assert torch.equal(read_tail_file(path)(values), tail(values))


def test_gradients_pass_a_tail_that_was_read_and_its_weights_are_frozen(written):
    tail, path = written
    read = read_tail_file(path)
    gradients = []
    for form in (tail, read):
        values = torch.ones(2, 4, 5, 5, requires_grad=True)
        gradients += torch.autograd.grad(form(values).sum(), values)
    assert torch.equal(*gradients)
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_the_same_tail_gives_the_same_bytes(written, tmp_path):
    tail, path = written
    write_tail_file(tail, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


class Stranger(nn.Module):
    """Calls what is no operator of torch."""

    def forward(self, values):
        return torch.relu(values)


def test_a_tail_of_anything_but_operators_is_not_written(tmp_path):
    with pytest.raises(CompilationUnavailable, match=r"the tail needs '.*relu', which is no operator of torch"):
        write_tail_file(traced(Stranger()), tmp_path / TAIL)


def forge(path: Path, change) -> None:
    graph = json.loads(read_safetensors(path)[1][GRAPH])
    change(graph)
    save_file(load_file(path), path, {GRAPH: json.dumps(graph)})


def calls(graph):
    return [block for block in graph if block["op"] == "call_function"]


def evil_operator(name):
    return lambda graph: calls(graph)[0].update(target=name, args=["touch code_ran"])


ATTACKS = {
    "operator": evil_operator("os.system"),
    "through a module": evil_operator("torch.os.system"),
    "a private part": evil_operator("torch.ops.aten.__class__.__init__"),
    "a name": lambda graph: calls(graph)[0].update(kwargs={"a=print('code')": 1}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_of_a_tail_runs(written, attack):
    path = written[1]
    forge(path, ATTACKS[attack])
    with pytest.raises(ConfigError, match=r"the compiled tail is refused, as it may run code: (?:operator|name)"):
        read_halves(Absent(), Layer("features"), "fp32", path.parent)


def test_names_in_a_file_do_not_reach_the_python_that_torch_writes(written):
    tail, path = written
    text = path.read_bytes()
    graph = json.loads(read_safetensors(path)[1][GRAPH])
    name = next(block["name"] for block in graph if block["op"] == "get_attr")
    weights = load_file(path)
    evil = "x; raise SystemExit"
    weights[evil] = weights.pop(name)
    renamed = json.loads(json.dumps(graph).replace(f'"{name}"', json.dumps(evil)))
    save_file(weights, path, {GRAPH: json.dumps(renamed)})
    assert path.read_bytes() != text
    values = torch.randn(2, 4, 5, 5)
    assert torch.equal(read_tail_file(path)(values), tail(values))


@pytest.mark.parametrize("change", [lambda graph: graph.pop(0), lambda graph: calls(graph)[0].pop("target")])
def test_a_file_that_is_no_tail_leaves_the_network_eager(written, change):
    path = written[1]
    forge(path, change)
    with pytest.raises(CompilationUnavailable, match="the compiled network cannot be loaded"):
        read_halves(Absent(), Layer("features"), "fp32", path.parent)
