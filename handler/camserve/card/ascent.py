"""Pictures made by gradient steps on pixels, from a seed: always the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from camserve.attribution.methods.guided import BACKWARD
from camserve.attribution.operators import OperatorMode
from camserve.card.subject import Subject
from camserve.errors import ConfigError

STEP = 0.02  # of the range of a pixel, for a gradient of usual size
JITTER = 8  # pixels by which a picture is moved at each step, so that nothing hangs on single pixels
BLUR_EVERY, BLUR = 4, 0.6  # steps; standard deviation in pixels
DECAY = 0.01  # towards grey, at each step
SMOOTH = 6.0  # weight of total variation beside the distance of representations, which gets smaller by it too
LEARNING_RATE = 0.05  # of Adam, which falls to a tenth
DREAM = 3  # a dream has so many times fewer steps: it shall stay a picture of the photo

Objective = Callable[[Tensor], Tensor]  # one picture (1, 3, H, W), 0..1 -> a number


@dataclass(frozen=True)
class Ascent:
    """A picture, and what its objective is of it and of the picture that it began as."""

    picture: Tensor  # (3, H, W), 0..1 in steps of 1/255
    before: float
    after: float


def draw_class(subject: Subject, index: int, steps: int, seed: int) -> Ascent:
    """Return a picture that raises the score of a class above that of the others, from grey noise.

    Simonyan et al. 2014, arXiv:1312.6034, with the blur and the jitter of Yosinski et al. 2015, arXiv:1506.06579. What
    is climbed is the score less the logarithm of the sum of the others' exponentials: the score alone is raised by what
    raises all. ``before`` and ``after`` are the score's. ConfigError: no gradient reaches the pixels, or the score does
    not rise.
    """

    def score(picture: Tensor) -> Tensor:
        return subject.look(picture)[0][0, index]

    def lead(picture: Tensor) -> Tensor:
        scores = subject.look(picture)[0][0, : len(subject.labels)]
        others = torch.cat([scores[:index], scores[index + 1 :]])
        return scores[index] - others.logsumexp(0) if len(others) else scores[index]

    start = _noise(subject, seed)
    return _check_rise(_measure(score, start, _climb(lead, start, steps, seed)), "class's score", steps)


def draw_channel(subject: Subject, channel: int, steps: int, seed: int) -> Ascent:
    """Return a picture that raises the mean activation of a channel, from grey noise. Erhan et al. 2009.

    ConfigError: no step was found that does.
    """
    return _raise(_mean_of(subject, channel), _noise(subject, seed), steps, seed)


def dream(subject: Subject, photo: Tensor, channel: int, steps: int, seed: int) -> Ascent:
    """Return a photo (3, H, W) changed so that the mean activation of a channel rises.

    Mordvintsev et al. 2015 (DeepDream), at one size. ConfigError: no step was found that does.
    """
    return _raise(_mean_of(subject, channel), photo[None], max(1, steps // DREAM), seed, decay=0.0)


def invert(subject: Subject, photo: Tensor, steps: int, seed: int) -> Ascent:
    """Return a picture whose feature maps are those of a photo (3, H, W), from grey noise.

    Mahendran and Vedaldi 2015, arXiv:1412.0035, by Adam. The objective is |A(x) - A(photo)|^2 / |A(photo)|^2.
    ConfigError: A(photo) is zero, or the maps get no nearer to it.
    """
    with torch.no_grad():
        wanted = subject.look(photo[None])[1]
    size = float(wanted.square().sum())
    if size == 0:
        raise ConfigError(f"layer '{subject.layer.name}' is zero for this photo: nothing can be inverted")

    def distance(picture: Tensor) -> Tensor:
        return (subject.look(picture)[1] - wanted).square().sum() / size

    start = _noise(subject, seed)
    values = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([values], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, steps)
    with torch.enable_grad():
        for _ in range(steps):
            (values.grad,) = torch.autograd.grad(distance(values) + SMOOTH * _variation(values), values)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                values.clamp_(0, 1)
    made = _measure(distance, start, values.detach())
    if not made.after < made.before:  # nor where it is NaN
        raise ConfigError(
            f"{steps} steps did not bring the feature maps nearer to the photo's than {made.before:.3g} of their size"
        )
    return made


def _mean_of(subject: Subject, channel: int) -> Objective:
    return lambda picture: subject.look(picture)[1][0, channel].mean()


def _raise(objective: Objective, start: Tensor, steps: int, seed: int, decay: float = DECAY) -> Ascent:
    made = _measure(objective, start, _climb(objective, start, steps, seed, decay))
    return _check_rise(made, "channel's activation", steps)


def _check_rise(made: Ascent, what: str, steps: int) -> Ascent:
    if not made.after > made.before:  # nor where it is NaN
        raise ConfigError(f"{steps} steps did not raise the {what} above {made.before:.3g}")
    return made


def _climb(objective: Objective, start: Tensor, steps: int, seed: int, decay: float = DECAY) -> Tensor:
    """Return the picture after so many steps of normalised gradient ascent. ConfigError: as for ``_gradient``."""
    generator = torch.Generator().manual_seed(seed)
    picture = start.clone()
    for step in range(steps):
        down, across = (int(torch.randint(-JITTER, JITTER + 1, (), generator=generator)) for _ in range(2))
        gradient = _gradient(objective, picture.roll((down, across), (2, 3))).roll((-down, -across), (2, 3))
        size = gradient.square().mean().sqrt()
        picture = picture + STEP * gradient / size.clamp(min=torch.finfo(torch.float32).tiny)
        picture = 0.5 + (picture - 0.5) * (1 - decay)
        if decay and step % BLUR_EVERY == BLUR_EVERY - 1 and step < steps - BLUR_EVERY:
            picture = _blur(picture)
        picture = picture.clamp(0, 1)
    return picture


def _gradient(objective: Objective, picture: Tensor) -> Tensor:
    """Return the gradient at the pixels; where ReLUs stop all of it, what passes when they are open.

    ConfigError: nothing reaches the pixels.
    """
    gradient = _differentiate(objective, picture)
    if not gradient.any():
        with _OpenRectifiers():
            gradient = _differentiate(objective, picture)
    if not gradient.any():
        raise ConfigError("no gradient reaches the pixels")
    return gradient


def _differentiate(objective: Objective, picture: Tensor) -> Tensor:
    with torch.enable_grad():
        watched = picture.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(watched), watched)
    return gradient


class _OpenRectifiers(OperatorMode):
    """Let gradients pass every ReLU and ReLU6 as they are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].clone() if func in BACKWARD else func(*args, **(kwargs or {}))


def _measure(objective: Objective, start: Tensor, picture: Tensor) -> Ascent:
    drawn = (picture * 255).round() / 255
    with torch.no_grad():
        return Ascent(drawn[0].cpu(), float(objective(start)), float(objective(drawn)))


def _noise(subject: Subject, seed: int) -> Tensor:
    drawn = torch.randn(1, 3, *subject.spec.size, generator=torch.Generator().manual_seed(seed))
    return (0.5 + 0.05 * drawn).clamp(0, 1).to(subject.device)


def _variation(picture: Tensor) -> Tensor:
    down, across = picture.diff(dim=2), picture.diff(dim=3)
    return down.square().mean().sqrt() + across.square().mean().sqrt()


def _blur(picture: Tensor) -> Tensor:
    side = torch.exp(-torch.tensor([-1.0, 0.0, 1.0], device=picture.device).square() / (2 * BLUR**2))
    kernel = (side[:, None] * side / side.sum() ** 2).expand(3, 1, 3, 3)
    return functional.conv2d(functional.pad(picture, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
