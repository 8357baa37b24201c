"""The short cut through a tail's backward pass gives what the whole one gives, for less."""

import pytest
import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from camserve.backward import pull_back
from small_networks import CLASSES


def torchvision_vit():
    return torchvision.models.VisionTransformer(32, 4, 2, 2, 16, 32, num_classes=CLASSES)


def timm_vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, depth=2, num_classes=CLASSES)


LAST_BLOCK = {torchvision_vit: lambda network: network.encoder.layers[-1], timm_vit: lambda network: network.blocks[-1]}


@pytest.fixture(params=LAST_BLOCK, ids=lambda build: build.__name__)
def tail(request):
    """The scores of three pictures, and what the last block was given."""
    torch.manual_seed(3)
    network = request.param().eval().requires_grad_(False)
    for each in network.parameters():
        each.normal_(std=0.1)
    given = []

    def cut(_, inputs):
        given.append(inputs[0].detach().requires_grad_())
        return (given[0].clone(), *inputs[1:])

    LAST_BLOCK[request.param](network).register_forward_pre_hook(cut)
    side = 32 if request.param is torchvision_vit else 64
    return network(torch.randn(3, 3, side, side)), given[0]


@pytest.mark.parametrize("count", [1, 4])
def test_idle_rows_leave_the_gradient_as_it_is(tail, count):
    scores, activation = tail
    weights = torch.randn(count, *scores.shape)
    expected = torch.stack([torch.autograd.grad(scores, activation, each, retain_graph=True)[0] for each in weights])
    for idle_rows in (False, True):
        found = pull_back(scores, activation, weights, idle_rows=idle_rows)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_idle_rows_save_most_of_the_work(tail):
    scores, activation = tail
    weights = torch.ones(1, *scores.shape)
    work = {}
    for idle_rows in (False, True):
        with FlopCounterMode(display=False) as counter:
            pull_back(scores, activation, weights, idle_rows=idle_rows)
        work[idle_rows] = counter.get_total_flops()
    assert work[True] < work[False] / 2


def test_scores_that_do_not_depend_on_the_activation_have_no_gradient():
    activation = torch.ones(2, 3, requires_grad=True)
    scores = torch.ones(2, CLASSES, requires_grad=True) * 2
    for count in (1, 2):
        assert pull_back(scores, activation, torch.ones(count, 2, CLASSES)) is None
