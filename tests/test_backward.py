"""The short cut through a tail's backward pass gives what the whole one gives, for less."""

import pytest
import timm
import torch
import torchvision
from torch import nn
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


class Scaled(torch.autograd.Function):
    """A step that a network defines in Python."""

    @staticmethod
    def forward(ctx, values):
        return values * 3

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3


class Split(nn.Module):
    """A step with two outputs, of which one goes on."""

    def forward(self, values):
        return values.chunk(2, dim=1)[1]


class Twice(nn.Module):
    """A step that reads its input twice."""

    def forward(self, values):
        return values.mean(dim=(2, 3)) + values.amax(dim=(2, 3))


class Spread(nn.Module):
    """A step whose gradient must be added up again where its input was repeated."""

    def forward(self, values):
        places = torch.linspace(1, 2, 36).view(6, 6)
        return values.mean(dim=(2, 3), keepdim=True) * places * places


class Columns(nn.Module):
    """A product whose other factor is the one that depends on the activation."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(9, 8))

    def forward(self, values):
        return (self.weight @ values.mean(dim=(2, 3)).t()).t()


def mlp(*between):
    return nn.Sequential(*between, nn.Linear(8, 600), nn.ReLU(), nn.Linear(600, 700), nn.Hardswish(), nn.Linear(700, 9))


POOL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
TAILS = {
    "mlp": (mlp(*POOL), True),
    "without a bias": (nn.Sequential(*POOL, nn.Linear(8, 9, bias=False)), True),
    "normalised": (mlp(nn.MaxPool2d(2), nn.BatchNorm2d(8), *POOL, nn.LayerNorm(8)), True),
    "convolution at the end": (nn.Sequential(nn.Conv2d(8, 9, 3), nn.ReLU(), *POOL), True),
    "a function in Python": (mlp(*POOL, type("Own", (nn.Module,), {"forward": lambda _, x: Scaled.apply(x)})()), False),
    "one of two outputs": (mlp(Split(), nn.Conv2d(4, 8, 1), *POOL), False),
    "a fork": (mlp(Twice()), False),
    "columns": (Columns(), True),
    "spread out": (mlp(Spread(), *POOL), False),
}


def run(name, rows):
    torch.manual_seed(7)
    tail, _ = TAILS[name]
    activation = torch.randn(rows, 8, 6, 6, requires_grad=True)
    return tail.eval().requires_grad_(False)(activation.clone()), activation


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", TAILS)
def test_steps_one_after_the_other_give_the_whole_gradient(name, count, rows, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        scores, activation = run(name, rows)
        one_class = torch.zeros(count, *scores.shape)
        one_class[:, :, 5] = 2.0
        nothing = torch.zeros(count, *scores.shape)
        for weights in (one_class, torch.randn(count, *scores.shape), nothing):
            whole = [torch.autograd.grad(scores, activation, each, retain_graph=True)[0] for each in weights]
            found = pull_back(scores, activation, weights)
            assert (found - torch.stack(whole)).abs().max() <= 1e-5 * torch.stack(whole).abs().max()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", TAILS)
def test_a_tail_without_forks_is_pulled_back_step_by_step(name, monkeypatch):
    scores, activation = run(name, 2)
    _, stepwise = TAILS[name]
    whole = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: whole.append(1) or grad(*args, **kwargs))
    pull_back(scores, activation, torch.ones(1, *scores.shape))
    assert bool(whole) != stepwise


def test_only_the_named_rows_of_a_weight_are_read():
    scores, activation = run("mlp", 2)
    weights = torch.zeros(1, *scores.shape)
    weights[:, :, 5] = 1.0
    expected = pull_back(scores, activation, weights)
    others = torch.arange(9) != 5
    TAILS["mlp"][0][-1].weight.data[others] = float("nan")
    assert torch.equal(pull_back(scores, activation, weights), expected)


def test_weights_of_another_number_of_classes_are_refused():
    scores, activation = run("mlp", 2)
    with pytest.raises(RuntimeError, match=r"weights of \(2, 11\) do not fit scores of \(2, 9\)"):
        pull_back(scores, activation, torch.zeros(1, 2, 11))


def test_scores_that_do_not_depend_on_the_activation_have_no_gradient():
    activation = torch.ones(2, 3, requires_grad=True)
    scores = torch.ones(2, CLASSES, requires_grad=True) * 2
    for count in (1, 2):
        assert pull_back(scores, activation, torch.ones(count, 2, CLASSES)) is None
