"""A factory may return whatever torch wraps a network in; a plain network in float32 comes of it."""

import sys

import pytest
import torch
from torch import nn

from camserve.errors import ConfigError
from camserve.network.factory import build_network
from camserve.settings import ModelSpec

PLAIN = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Width:
    channels: int = 4

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, Width().channels, 3), nn.ReLU())
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def compiled(): return torch.compile(Net())
def compiled_in_place():
    net = Net()
    net.compile()
    return net
def compiled_within():
    net = Net()
    net.body = torch.compile(net.body)
    return nn.DataParallel(net)
def half(): return Net().half()
def double(): return Net().double()
def nothing(): return {"net": Net()}
made = Net()
"""
NAMES = {"body.0.weight", "body.0.bias", "head.weight", "head.bias"}


def build(folder, factory, source=PLAIN, **args):
    (folder / "net.py").write_text(source)
    return build_network(ModelSpec(factory, args, "net.py"), folder)


@pytest.fixture(autouse=True)
def same_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize(
    "factory", ["Net", "compiled", "compiled_in_place", "compiled_within", "half", "double", "made"]
)
def test_a_class_a_function_or_a_network_gives_a_plain_one_in_float32(tmp_path, factory):
    network = build(tmp_path, factory)
    assert dict(network.named_parameters()).keys() == NAMES
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert all(module._compiled_call_impl is None for module in network.modules())
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_complex_parameters_stay_complex(tmp_path):
    source = "import torch\nfrom torch import nn\ndef net():\n    m = nn.Conv2d(3, 4, 3)\n"
    source += "    m.waves = nn.Parameter(torch.ones(2, dtype=torch.complex64))\n    return m\n"
    assert build(tmp_path, "net", source).waves.dtype == torch.complex64


FAULTS = {
    "an error in the file": ("net", "import torch\n1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero"),
    "no Python": ("net", "def net(:\n", "cannot be imported: SyntaxError"),
    "a missing module": ("net", "import no_such_thing\n", "cannot be imported: No module named 'no_such_thing'"),
    "an error in the factory": ("net", "def net(): raise ValueError('a\\nb')\n", "failed: ValueError: a$"),
    "no network": ("nothing", PLAIN, "made a dict, not a torch.nn.Module"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_model_file_is_one_line(tmp_path, name):
    factory, source, message = FAULTS[name]
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, factory, source)


def test_the_wrapper_of_a_shared_module_is_taken_off_everywhere(tmp_path):
    shared = torch.compile(nn.Conv2d(3, 3, 1))
    (tmp_path / "net.py").write_text("net = None\n")
    sys.modules["shared_for_test"] = type(sys)("shared_for_test")
    sys.modules["shared_for_test"].net = lambda: nn.Sequential(shared, shared)
    network = build_network(ModelSpec("shared_for_test:net"), tmp_path)
    del sys.modules["shared_for_test"]
    assert type(network[0]) is nn.Conv2d
    assert network[0] is network[1]
