"""What travels between the stages: frozen values that say their shapes and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class RawRequest:
    """One row as a server received it, before anything in it is trusted."""

    image: object = None  # encoded bytes, or their base64 text
    fields: Mapping[str, object] = field(default_factory=dict)  # options from the body
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    path: str = ""  # option pairs from the address: "target/tabby/format/overlay"
    must_explain: bool = False  # the address itself asks for an explanation
    request_id: str = ""


@dataclass(frozen=True)
class Response:
    """One row's answer, ready for any server."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # fixed ASCII, never a caller's text


@dataclass(frozen=True)
class Layer:
    """Where a map is read: one call of one module, and how the axes of its output lie."""

    name: str  # dotted module name, as in network.named_modules()
    layout: str = "NCHW"  # NCHW, NHWC, or NLC: tokens x channels
    prefix: int = 0  # tokens before those of the grid (class token, registers)
    grid: tuple[int, int] = (0, 0)  # rows, columns at the model's own input size
    call: int = 0  # which call of the module in one forward pass


TRAITS = ("grey", "deep", "cmyk", "flattened", "rotated", "animated")  # what an uploaded picture may be, besides RGB


@dataclass(frozen=True)
class Picture:
    """An uploaded picture, decoded: upright, RGB."""

    image: Image.Image  # perhaps smaller than what was uploaded: no finer than anyone needs
    format: str  # JPEG, PNG, ...
    width: int  # of what was uploaded, in pixels after EXIF rotation
    height: int
    traits: Sequence[str] = ()  # of ``TRAITS``


@dataclass(frozen=True)
class Wanted:
    """One class that a caller asks about, before the scores are known."""

    kind: str  # "predicted", "class", "top", or "next" for a contrast with the runner-up
    number: int = 0  # the class index, or K of top:K
    asked: str = "predicted"  # in the caller's words


@dataclass(frozen=True)
class Condition:
    """When to explain, decided by the prediction itself: ``probability<0.6``."""

    quantity: str  # probability, margin, or label
    operator: str  # < <= > >= = !=
    limit: float | str


@dataclass(frozen=True)
class Options:
    """What one caller asks for, checked against the model."""

    explain: bool | Condition = True
    targets: tuple[Wanted, ...] = (Wanted("predicted"),)
    contrast: Wanted | None = None  # kind "class" or "next"
    methods: tuple[str, ...] = ("gradcam",)
    layers: tuple[str, ...] = ()  # several are fused; the archive's first where nothing is asked
    evidence: str = "for"  # for, against, signed
    formats: tuple[str, ...] = ("grid",)
    size: int | None = None  # longest side of drawn pictures, pixels
    top_k: int = 5
    details: frozenset[str] = frozenset()
    deadline_ms: int | None = None  # after which the answer comes without what is not explained yet
    compat: str | None = None  # the library as whose users see it the map is shown
    palette: str = "turbo"
    opacity: float = 0.6
    picture: str | None = None  # JPEG, PNG or WEBP: the overlay itself is the body


@dataclass(frozen=True)
class Request:
    """One accepted row: what the network is to see, and what is asked about it."""

    picture: Picture
    pixels: np.ndarray  # (H, W, 3) uint8, of the network's own size
    region: Box  # the part of the uploaded picture that they show
    options: Options
    request_id: str
    until: float  # time.monotonic() after which no pass is begun for its explanations


@dataclass(frozen=True)
class Targets:
    """The functionals whose evidence is asked for: target t is ``signs[t] . scores[numbers[t], classes[t]]``.

    One class is asked about for itself, two with opposite signs to learn why one rather than the other, negated signs
    to learn what speaks against.
    """

    numbers: Sequence[int]  # T, which row of the batch; on the host, where a GPU need not be waited for
    classes: Tensor  # (T, M) int64: M is 1 or 2 of the C classes, unless all are weighed
    signs: Tensor  # (T, M) float32
    class_count: int  # C

    @classmethod
    def weighing(cls, numbers: Sequence[int], weights: Tensor) -> Targets:
        """Weigh all scores: target t is ``weights[t] . scores[numbers[t]]``, for weights (T, C) float32."""
        # 0, 1, ... C - 1 in each row, by a tensor's own means: those who need no torch must not load it with this file.
        every = weights.new_ones(weights.shape).long().cumsum(dim=1) - 1
        return cls(numbers, every, weights, weights.shape[1])

    @cached_property
    def rows(self) -> Tensor:
        """Which row of the batch, (T,) int64."""
        return self.classes.new_tensor(self.numbers)

    @cached_property
    def weights(self) -> Tensor:
        """The weight of every score, (T, C) float32."""
        return self.signs.new_zeros(len(self.numbers), self.class_count).scatter_add_(1, self.classes, self.signs)

    def per_row(self, count: int) -> int:
        """Return how many targets each of ``count`` rows has, where these are equally many and in order; else 0."""
        each, more = divmod(len(self.numbers), count)
        in_order = not more and list(self.numbers) == [row for row in range(count) for _ in range(each)]
        return each if in_order else 0


@dataclass(frozen=True)
class Prediction:
    """One class of one row."""

    index: int
    label: str
    probability: float
    score: float  # before softmax


@dataclass(frozen=True)
class Target:
    """The class that an explanation is about."""

    prediction: Prediction
    asked: str


@dataclass(frozen=True)
class Caution:
    """A warning as data."""

    code: str
    message: str


@dataclass(frozen=True)
class Explanation:
    """One map of one row, with what a reader needs to judge it."""

    status: str  # ok, blank, skipped, failed
    method: str
    layer: str
    evidence: str
    target: Target
    contrast: Prediction | None = None
    grid: np.ndarray | None = None  # (h, w) float32: 0..1, or -1..1 when signed
    scale: float = 0.0  # grid * scale is the raw map
    compat: str | None = None  # the grid is what this library returns, at the input's resolution
    boxes: tuple[Box, ...] = ()  # in the uploaded picture's pixels
    images: Mapping[str, str] = field(default_factory=dict)  # format -> data URI
    balance: Mapping[str, float | None] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[Caution, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Everything that one row is told."""

    request: Request
    predictions: tuple[Prediction, ...]
    explanations: tuple[Explanation, ...] = ()
    warnings: tuple[Caution, ...] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)
