"""A transformer's backward pass without what is multiplied by zero gives the same gradients, for less work."""

import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from camserve.attribution.capture import Capture, Tail
from camserve.attribution.objectives import Objectives
from camserve.build.probe import find_layer
from camserve.fast.zero_rows import TokenBackward, find_token_backward
from camserve.values import Layer
from small_networks import CLASSES, SHAPE, SIDE, deep, pictures, settle, tokens

TRANSFORMERS = {
    "torchvision": lambda: torchvision.models.VisionTransformer(SIDE, 4, 2, 2, 16, 32, num_classes=CLASSES),
    "timm": lambda: timm.models.VisionTransformer(SIDE, 4, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES),
}


def outputs(network, layer, shortcut, count):
    with Capture(network, (layer,), {layer.name: Tail(backward=shortcut)}) as capture:
        (output,) = capture.forward(pictures(count))
    return output


def test_the_gradients_are_those_of_plain_autograd(subtests):
    for name, build in TRANSFORMERS.items():
        network = settle(build()).requires_grad_(False)
        layer = find_layer(network, SHAPE)
        shortcut = find_token_backward(network, layer, SHAPE)
        assert isinstance(shortcut, TokenBackward)
        for count, rows in ((1, [0]), (3, [0, 1, 2]), (2, [1, 0, 1, 1])):
            with subtests.test(name, count=count, rows=rows):
                objectives = Objectives.weighing(rows, torch.randn(len(rows), CLASSES))
                plain, short = (outputs(network, layer, form, count).gradients(objectives) for form in (None, shortcut))
                assert float((short - plain).abs().max()) <= 1e-5 * float(plain.abs().max())


def test_most_of_the_work_is_saved():
    network = settle(TRANSFORMERS["torchvision"]()).requires_grad_(False)
    layer = find_layer(network, SHAPE)
    work = []
    for shortcut in (None, find_token_backward(network, layer, SHAPE)):
        output = outputs(network, layer, shortcut, 2)
        with FlopCounterMode(display=False) as counter:
            output.gradients(Objectives.of_top_classes(output.scores))
        work.append(counter.get_total_flops())
    assert work[1] < 0.6 * work[0]


def test_it_is_for_layers_with_a_class_token_alone():
    small = deep()
    assert find_token_backward(small.network, small.layer, SHAPE) is None
    small = tokens()
    without = Layer(small.layer.name, "NLC", 0, (1, 17))
    assert find_token_backward(small.network, without, SHAPE) is None
