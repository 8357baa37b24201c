"""An archive whose maps would be made of wrong gradients is built another way, or not at all."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

import architectures
from camserve.build.archive import build_archive
from camserve.build.mar.unpack import read_contents
from camserve.build.probe import find_layer
from camserve.build.recipe import load_recipe
from camserve.build.trial.gradients import find_fault
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.serving.batch import Classifier
from model_file import quiet
from small_networks import settle

ARCHITECTURES = (
    *(architectures.resnet, architectures.densenet, architectures.vgg, architectures.efficientnet),
    *(architectures.shufflenet, architectures.swin, architectures.convnext, architectures.mobilenet),
)
NET = """
import torch
from torch import Tensor, nn
from torch.nn import functional


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * FACTOR


class Net(nn.Module):
    '''Batch normalisation between a convolution and tokens, as in CvT.'''

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Parameter(torch.zeros(8))
        self.mix = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.norm(functional.gelu(self.stem(pixels)))
        tokens = torch.cat([self.first.expand(len(pixels), 1, 8), hidden.flatten(2).transpose(1, 2)], dim=1)
        return self.fc(Scaled.apply(functional.gelu(self.mix(tokens))).mean(dim=1)) * 4


class Bent(nn.Module):
    '''Zeros at the layer, of which most are ties of a maximum.'''

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
        self.last = nn.Conv2d(8, 8, 3, bias=False)
        self.fc = nn.Linear(8, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = functional.max_pool2d(self.stem(pixels), 3, 1)
        return self.fc(functional.hardswish(self.last(hidden)).relu().amax(dim=(2, 3)))


class Stepped(Net):
    '''A score that jumps all the time, and a slope that finite differences do not see.'''

    def forward(self, pixels: Tensor) -> Tensor:
        scores = super().forward(pixels)
        return scores + (1e7 * scores.detach()).sin()


class Named(Net):
    '''Code that names float32.'''

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.to(torch.float32))
"""


def build(folder, report=quiet, factor=1.0, name="Net", **more):
    """Build an archive of one of these networks and return its settings; ``factor`` is how wrong a gradient is."""
    (folder / "net.py").write_text(NET.replace("FACTOR", str(factor)))
    scope: dict = {}
    exec(NET, scope)
    torch.save(settle(scope[name]()).state_dict(), folder / "net.pt")
    block = {
        "name": "net",
        "factory": name,
        "model_file": "net.py",
        "weights": "net.pt",
        "layer": "stem",
        "preprocess": {"resize": [64, 64], "crop": None},
        **more,
    }
    (folder / "net.yaml").write_text(json.dumps(block))
    archive = build_archive(load_recipe(folder / "net.yaml"), folder, report, fresh_process=False)
    return read_contents(archive).settings


def batch_norm_is_wrong():
    """Whether this torch gives a single picture wrong numbers where the gradient lies in memory as tokens do."""
    norm = nn.BatchNorm2d(2).eval()
    norm.running_var.copy_(torch.tensor([1.0, 4.0]))
    pixels = torch.zeros(1, 2, 2, 2, requires_grad=True)
    gradient = torch.arange(8.0).reshape(1, 4, 2).permute(0, 2, 1).view(1, 2, 2, 2)
    (found,) = torch.autograd.grad(norm(pixels), pixels, gradient)
    return not torch.allclose(found[0, 1], gradient[0, 1] / 2, rtol=1e-3)


@pytest.mark.parametrize("fast", [True, False])
def test_gradients_that_torch_gets_wrong_are_found_and_avoided(tmp_path, fast):
    if not batch_norm_is_wrong():
        pytest.skip("this torch has no such fault")
    lines: list[str] = []
    settings = build(tmp_path, lines.append, runtime={"channels_last": False, "fast": fast})
    assert settings.runtime.channels_last
    assert settings.runtime.fast == fast
    (line,) = [line for line in lines if line.startswith("runtime.")]
    assert re.match(r"runtime\.channels_last: true, since without it the gradients at stem are wrong \(torch 2\.", line)
    assert "by finite differences and" in line


def test_a_backward_pass_of_the_networks_own_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"gradients at stem are wrong .* backward pass of its own.*methods: \[rec"):
        build(tmp_path, factor=1.05)
    settings = build(tmp_path, factor=1.05, methods=["reciprocam"], defaults={"method": "reciprocam"})
    assert settings.methods == ("reciprocam",)


def test_a_network_that_runs_in_float32_alone_is_checked_in_it(tmp_path):
    lines: list[str] = []
    build(tmp_path, lines.append, name="Named")
    assert not [line for line in lines if "gradients" in line]
    with pytest.raises(ConfigError, match="gradients at stem are wrong"):
        build(tmp_path, factor=1.5, name="Named")


def test_ties_and_bends_are_no_fault(tmp_path):
    lines: list[str] = []
    settings = build(tmp_path, lines.append, name="Bent")
    assert settings.runtime.channels_last
    assert not [line for line in lines if "gradients" in line]


@pytest.mark.parametrize("build_network", ARCHITECTURES, ids=lambda build_network: build_network.__name__)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_no_gradient_of_common_networks_is_called_wrong(build_network, order):
    lines: list[str] = []
    network = ScoringNetwork(build_network()).eval().requires_grad_(False)
    pixels = torch.randn(1, 3, 64, 64).contiguous(memory_format=order)
    layer = find_layer(network, (3, 64, 64))
    classifier = Classifier(network, (), torch.device("cpu"), {})
    assert find_fault(network, classifier, [layer], pixels, lines.append) is None
    assert lines == []


def test_finite_differences_that_do_not_converge_are_said(tmp_path):
    lines: list[str] = []
    build(tmp_path, lines.append, name="Stepped")
    assert "the gradients at stem were not checked: finite differences do not converge there" in lines
