"""Maps at the resolution of the input, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from by_hand import FIRST, observe, watch_first
from camserve.attribution.methods import METHODS
from camserve.attribution.methods.gradient import NOISE, SAMPLES, smoothing_noise
from camserve.errors import ConfigError
from small_networks import SIDE, deep, distance, objectives_for, pictures, smooth


def test_the_gradient_of_a_linear_network_is_its_weights() -> None:
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3 * 4, 2, bias=False)).eval()
    pixels = torch.arange(12.0).reshape(1, 3, 2, 2)
    output = watch_first(network, pixels)
    weight = network[2].weight[0].detach().reshape(3, 2, 2)
    assert distance(METHODS["gradient"].run(output, FIRST)[0], weight.sum(dim=0)) <= 1e-6
    assert distance(METHODS["smoothgrad"].run(output, FIRST)[0], weight.sum(dim=0)) <= 1e-6
    for name in ("input_x_gradient", "integrated_gradients"):
        assert distance(METHODS[name].run(output, FIRST)[0], (weight * pixels[0]).sum(dim=0)) <= 1e-6


def test_integrated_gradients_sum_to_the_rise_of_the_score() -> None:
    small, pixels = deep(), pictures(2)
    found = METHODS["integrated_gradients"].run(observe(small, pixels), objectives_for((0, 1), (1, 2)))
    with torch.no_grad():
        rise = small.network(pixels) - small.network(torch.zeros_like(pixels))
    assert found.sum(dim=(1, 2)).tolist() == pytest.approx([float(rise[0, 1]), float(rise[1, 2])], rel=0.02)


def test_smoothgrad_averages_the_gradients_of_noisy_pictures() -> None:
    small, pixels = deep(), pictures(1)
    noisy = (pixels + smoothing_noise(pixels)[:, 0]).requires_grad_()
    small.network(noisy)[:, 2].sum().backward()
    assert noisy.grad is not None
    assert (
        distance(
            METHODS["smoothgrad"].run(observe(small, pixels), objectives_for((0, 2)))[0],
            noisy.grad.sum(dim=1).mean(dim=0),
        )
        <= 1e-5
    )
    assert len(noisy) == SAMPLES
    assert float((noisy.detach() - pixels).std()) == pytest.approx(NOISE * float(pixels.max() - pixels.min()), rel=0.02)


def test_guided_backprop_and_deconvnet_by_hand() -> None:
    # score 0 = 2 relu(x0) - relu(x1) + relu(x2) with x = 1, 1, -1
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(3, 2, bias=False)).eval()
    with torch.no_grad():
        network[3].weight.copy_(torch.tensor([[2.0, -1.0, 1.0], [0.0, 0.0, 0.0]]))
    output = watch_first(network, torch.tensor([1.0, 1.0, -1.0]).reshape(1, 3, 1, 1))
    assert METHODS["gradient"].run(output, FIRST).tolist() == [[[1.0]]]  # 2 - 1
    assert METHODS["guided_backprop"].run(output, FIRST).tolist() == [[[2.0]]]  # the falling path is closed
    assert METHODS["deconvnet"].run(output, FIRST).tolist() == [[[3.0]]]  # and the inactive one is open


def test_guided_methods_need_a_relu() -> None:
    output = observe(smooth(), pictures(1))
    for name in ("guided_backprop", "deconvnet", "guided_gradcam"):
        with pytest.raises(ConfigError, match="this network has none"):
            METHODS[name].run(output, objectives_for((0, 0)))


def test_guided_gradcam_is_the_product_of_its_parts() -> None:
    output, objectives = observe(deep(), pictures(1)), objectives_for((0, 1))
    coarse = METHODS["gradcam"].run(output, objectives).clamp(min=0)
    fine = nn.functional.interpolate(coarse[None], size=(SIDE, SIDE), mode="bilinear")[0]
    expected = fine * METHODS["guided_backprop"].run(output, objectives)
    assert distance(METHODS["guided_gradcam"].run(output, objectives), expected) <= 1e-5
