"""The short cut through a tail's backward pass gives what the whole one gives, for less."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from camserve.fast.graph_walk import Sums, find_steps, pull_back
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


def call(function):
    """Make a module of a function."""
    return type("Called", (nn.Module,), {"forward": lambda _, values: function(values)})()


def reads(positions, *before):
    return nn.Sequential(*before, nn.Flatten(), nn.Linear(8 * positions, 300), nn.ReLU(), nn.Linear(300, 9))


READS_POSITIONS = {
    "read flat": reads(36),
    "pooled and read flat": reads(9, nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3)),
    "pooled with overlaps": reads(16, nn.MaxPool2d(3, stride=2, padding=1), nn.AdaptiveAvgPool2d((4, 4))),
}
CHAINS = {
    **READS_POSITIONS,
    "mlp": mlp(*POOL),
    "without a bias": nn.Sequential(*POOL, nn.Linear(8, 9, bias=False)),
    "normalised": mlp(nn.MaxPool2d(2), nn.BatchNorm2d(8), *POOL, nn.LayerNorm(8)),
    "convolution at the end": nn.Sequential(nn.Conv2d(8, 9, 3), nn.ReLU(), *POOL),
    "convolution, then read flat": reads(16, nn.Conv2d(8, 8, 3)),
    "averaged with borders": reads(9, nn.AvgPool2d(3, stride=2, padding=1)),
    "averaged over one side": reads(6, call(lambda values: values.mean(dim=3))),
    "averaged over channels": nn.Sequential(
        call(lambda values: values.mean(dim=(1, 2), keepdim=True)), nn.Flatten(), nn.Linear(6, 9)
    ),
    "read channels last": reads(36, call(lambda values: values.permute(0, 2, 3, 1))),
    "read otherwise cut": reads(36, call(lambda values: values.reshape(-1, 4, 72).relu().flatten(1))),
    "one place of each": mlp(call(lambda values: values.contiguous().as_strided((len(values), 8), (288, 1), 0))),
    "columns": Columns(),
}
FORKED = {
    "a function in Python": mlp(*POOL, call(Scaled.apply)),
    "one of two outputs": mlp(Split(), nn.Conv2d(4, 8, 1), *POOL),
    "a fork": mlp(Twice()),
    "spread out": mlp(Spread(), *POOL),
}


def run(tail, rows):
    torch.manual_seed(7)
    activation = torch.randn(rows, 8, 6, 6, requires_grad=True)
    return tail.eval().requires_grad_(False)(activation.clone()), activation


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_steps_one_after_the_other_give_the_whole_gradient(name, count, rows, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        scores, activation = run(CHAINS[name], rows)
        steps = find_steps(scores, activation)
        one_class = torch.zeros(count, *scores.shape)
        one_class[:, :, 5] = 2.0
        nothing = torch.zeros(count, *scores.shape)
        for weights in (one_class, torch.randn(count, *scores.shape), nothing):
            whole = [torch.autograd.grad(scores, activation, each, retain_graph=True)[0] for each in weights]
            exact = torch.stack(whole)
            sums = Sums(CHAINS[name].parameters())
            for _ in range(2):
                found = steps.gradient(weights)
                assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()
                # Sums over positions lose digits where these cancel.
                means = steps.mean_gradient(weights, sums) - exact.mean(dim=(3, 4))
                assert means.abs().max() <= 1e-5 * exact.abs().max()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", FORKED)
def test_a_tail_that_forks_has_no_steps(name):
    assert find_steps(*run(FORKED[name], 2)) is None


@pytest.mark.parametrize("name", READS_POSITIONS)
def test_a_layer_that_reads_positions_is_read_as_its_sums(name):
    scores, activation = run(READS_POSITIONS[name], 2)
    steps = find_steps(scores, activation)
    weights = torch.randn(4, *scores.shape)
    work = {}
    for lasting in (True, False):
        sums = Sums(READS_POSITIONS[name].parameters() if lasting else ())
        with FlopCounterMode(display=False) as counter:
            steps.mean_gradient(weights, sums)
        work[lasting] = counter.get_total_flops()
    assert 0 < work[True] < work[False] / 2


def test_a_weight_that_is_another_in_every_pass_is_not_remembered():
    sums = Sums(())
    for number in range(3):
        weight = torch.randn(9, 8 * 36, generator=torch.Generator().manual_seed(number))
        tail = call(lambda values, weight=weight: nn.functional.linear(values.flatten(1), weight))
        scores, activation = run(tail, 2)
        one = torch.ones(1, *scores.shape)
        (exact,) = torch.autograd.grad(scores, activation, one[0], retain_graph=True)
        found = find_steps(scores, activation).mean_gradient(one, sums)
        assert (found[0] - exact.mean(dim=(2, 3))).abs().max() <= 1e-5 * exact.abs().max()
        weight.zero_()  # whoever made it may use its memory for the next


def test_only_the_named_rows_of_a_weight_are_read():
    scores, activation = run(CHAINS["mlp"], 2)
    weights = torch.zeros(1, *scores.shape)
    weights[:, :, 5] = 1.0
    steps = find_steps(scores, activation)
    expected = steps.gradient(weights)
    others = torch.arange(9) != 5
    CHAINS["mlp"][-1].weight.data[others] = float("nan")
    assert torch.equal(steps.gradient(weights), expected)


def test_weights_of_another_number_of_classes_are_refused():
    scores, activation = run(CHAINS["mlp"], 2)
    with pytest.raises(RuntimeError, match=r"weights of \(2, 11\) do not fit scores of \(2, 9\)"):
        find_steps(scores, activation).gradient(torch.zeros(1, 2, 11))


def test_scores_that_do_not_depend_on_the_activation_have_no_gradient():
    activation = torch.ones(2, 3, requires_grad=True)
    scores = torch.ones(2, CLASSES, requires_grad=True) * 2
    for count in (1, 2):
        assert pull_back(scores, activation, torch.ones(count, 2, CLASSES)) is None
