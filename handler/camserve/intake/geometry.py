"""Where a picture lies in the network's input: resize, padding and centre crop as one placement."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from camserve.input_spec import InputSpec
from camserve.values import Box


@dataclass(frozen=True)
class Span:
    """One axis of a placement."""

    side: int  # of the network's input, in pixels
    first: int  # pixel of the input, before or after its edge too, at which what is resized starts
    stop: int  # and at which it ends; the rest of the input is padding
    scale: float  # pixels of the picture in one of the input
    padding: tuple[int, int]  # pixels of the picture's own that padding adds before it is resized

    @property
    def seen(self) -> tuple[float, float]:
        """Where the input starts and ends, in pixels of the picture; beyond its edges it shows padding."""
        start = -self.first * self.scale - self.padding[0]
        return start, start + self.side * self.scale


@dataclass(frozen=True)
class Placement:
    """How a picture becomes the network's input, on each axis."""

    across: Span
    down: Span

    @property
    def region(self) -> Box:
        """The part of the picture that the input shows, in the picture's pixels; padding lies outside the picture."""
        (left, right), (top, bottom) = self.across.seen, self.down.seen
        return left, top, right, bottom


@lru_cache(maxsize=256)  # most clients send few sizes, and each picture is placed twice
def place_picture(width: int, height: int, spec: InputSpec) -> Placement:
    """Place a picture of these pixels; sizes and roundings are those of torchvision's Resize, Pad and CenterCrop."""
    square = max(width, height)
    padded = (square, square) if spec.pad == "square" else (width, height)
    resized = _resized(*padded, spec)
    canvas = (spec.resized[1], spec.resized[0]) if spec.pad == "letterbox" else resized
    sides = spec.size[1], spec.size[0]
    across, down = (_span(*axis) for axis in zip((width, height), padded, resized, canvas, sides))
    return Placement(across, down)


def enough(width: int, height: int, spec: InputSpec) -> tuple[int, int]:
    """Return how many pixels across and down of a picture are worth decoding: twice those that resizing leaves."""
    placement = place_picture(width, height, spec)
    return round(2 * width / placement.across.scale), round(2 * height / placement.down.scale)


def _span(own: int, padded: int, resized: int, canvas: int, side: int) -> Span:
    first = _start(canvas, side) + _start(resized, canvas)
    before = (padded - own) // 2
    return Span(side, first, first + resized, padded / resized, (before, padded - own - before))


def _start(inner: int, outer: int) -> int:
    """Return where a length starts in another one that has the same centre; negative where it is longer."""
    return (outer - inner) // 2 if inner <= outer else -round((inner - outer) / 2)


def _resized(width: int, height: int, spec: InputSpec) -> tuple[int, int]:
    if spec.resize is None:
        return width, height
    if spec.pad == "letterbox":
        most_down, most_across = spec.resized
        scale = min(most_across / width, most_down / height)
        return max(1, round(width * scale)), max(1, round(height * scale))
    if isinstance(spec.resize, tuple):
        return spec.resize[1], spec.resize[0]
    if width <= height:
        return spec.resize, int(spec.resize * height / width)
    return int(spec.resize * width / height), spec.resize
