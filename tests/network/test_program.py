"""A program without model code explains as the network that it was exported from."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.archive import build_archive
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import Recipe
from camserve.errors import ConfigError
from camserve.fast.packing import PackedWeight
from camserve.fast.prepare import rewrite
from camserve.input_spec import InputSpec
from camserve.intake.decode import decode
from camserve.intake.preprocess import normalise, resize_and_crop
from camserve.network.output import ScoringNetwork
from camserve.network.program import load_program
from camserve.settings import Limits, RuntimeSpec
from camserve.values import Layer, RawRequest
from small_networks import CLASSES, SHAPE, SIDE, Small, objectives_for, settle, watch

GEOMETRY = InputSpec(resize=SIDE, crop=SIDE)
LAST = "at.relu__2"  # what a program calls the output of ``Residual.block``


class Residual(nn.Module):
    """A residual block with batch normalisation, as a ResNet has many."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.outer = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8))
        self.block = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, pixels):
        before = self.stem(pixels)
        return self.head(self.block(self.outer(self.inner(before)) + before).mean((2, 3)))


def residual():
    return settle(Residual())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One network, exported with any batch size, with one batch size, and traced to TorchScript."""
    folder = tmp_path_factory.mktemp("programs")
    pixels = torch.randn(2, 3, SIDE, SIDE)
    shapes = ({0: torch.export.Dim("n", min=1, max=64)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(residual(), (pixels,), dynamic_shapes=shapes), folder / "any.pt2")
        torch.export.save(torch.export.export(residual(), (pixels,)), folder / "fixed.pt2")
        torch.jit.save(torch.jit.trace(residual(), pixels), folder / "traced.pt")
    return folder


def test_a_program_has_the_scores_and_the_map_of_its_network(files):
    pixels = torch.randn(3, 3, SIDE, SIDE)
    objectives = objectives_for((0, 1), (1, 2), (2, 3), (2, 4))
    program = load_program(files / "any.pt2", [LAST], SHAPE)
    outputs = [
        watch(Small(source, Layer(name)), pixels, tape=True)
        for source, name in ((residual(), "block"), (program, LAST))
    ]
    assert torch.allclose(outputs[1].scores, outputs[0].scores, atol=1e-6, rtol=1e-4)
    for method in ("gradcam", "reciprocam"):
        expected, found = (METHODS[method].run(output, objectives) for output in outputs)
        assert torch.allclose(found, expected, atol=1e-6, rtol=1e-4), method


def test_the_weights_of_a_program_are_packed(files):
    layer = Layer(LAST)
    program = ScoringNetwork(load_program(files / "any.pt2", [layer.name], SHAPE)).requires_grad_(False)
    pixels = torch.randn(3, 3, SIDE, SIDE)
    expected = program(pixels)
    rewrite(program, (layer,), SHAPE, RuntimeSpec())
    assert sum(isinstance(parameter, PackedWeight) for parameter in program.parameters()) == 3
    assert torch.allclose(program(pixels), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.server
@pytest.mark.parametrize("file", ["any.pt2", "traced.pt"])
def test_an_archive_of_a_program_needs_no_model_code(files, tmp_path, chelsea, file):
    recipe = Recipe("program", str(files / file), preprocess=GEOMETRY, methods=("gradcam", "eigencam"))
    with open_archive(build_archive(recipe, tmp_path, lambda line: None, fresh_process=False)) as pipeline:
        answers = [json.loads(answer.body) for answer in pipeline.answer([RawRequest(chelsea)] * 3)]
        layer = pipeline.settings.layers[0]
    assert layer.grid == (8, 8)
    pixels = normalise([resize_and_crop(decode(chelsea, Limits()), GEOMETRY)[0]], GEOMETRY, torch.device("cpu"))
    output = watch(Small(residual(), Layer("block")), pixels)
    best = int(output.scores.argmax())
    assert [answer["predictions"][0]["index"] for answer in answers] == [best] * 3
    expected = METHODS["gradcam"].run(output, Objectives.of_top_classes(output.scores))[0].clamp(min=0)
    grid = np.array(answers[0]["explanations"][0]["grid"])
    assert np.abs(grid - (expected / expected.max()).numpy()).max() < 1e-3


def test_a_program_of_one_batch_size_is_refused_with_the_line_that_mends_it(files):
    with pytest.raises(ConfigError, match=r"dynamic first dimension: torch\.export\.save"):
        load_program(files / "fixed.pt2", None, SHAPE)


def test_a_tensor_that_is_not_there_is_refused(files):
    with pytest.raises(ConfigError, match=r"no tensor 'at\.relu_99'"):
        load_program(files / "any.pt2", ["at.relu_99"], SHAPE)


def test_what_is_no_program_is_refused(tmp_path):
    (tmp_path / "x.pt2").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no exported program"):
        load_program(tmp_path / "x.pt2", None, SHAPE)


def test_torchscript_that_cannot_be_converted_is_refused_with_the_way_out(tmp_path):
    class Loops(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            total = pixels.mean((2, 3))
            while float(total.abs().sum()) < 10:
                total = total * 2 + 1
            return total

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Loops()), tmp_path / "loops.pt")
    recipe = Recipe("loops", str(tmp_path / "loops.pt"), preprocess=GEOMETRY)
    with pytest.raises(ConfigError, match=r"cannot convert .* export the model itself"):
        build_archive(recipe, tmp_path / "out", lambda line: None, fresh_process=False)
