"""The values that pass between the stages: frozen, with their shapes and units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from camserve.choices import EVIDENCE, FORMATS, PALETTES
from camserve.warning_codes import AnswerWarning

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

InputShape = tuple[int, int, int]  # channels, height, width of the network's input
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Progress = Callable[[str], None]  # gets one line for each step of long work


@dataclass(frozen=True)
class RawRequest:
    """One row as a server received it, not yet checked."""

    image: object = None  # encoded bytes, or their base64 text
    fields: Mapping[str, object] = field(default_factory=dict)  # options from the body
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    path: str = ""  # option pairs from the address: "target/tabby/format/overlay"
    must_explain: bool = False  # the address itself asks for an explanation
    request_id: str = ""
    body: int | None = None  # number of the body that it came in with others; None: it came alone


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
    share: float = 1.0  # of the scores' variance that passes it, measured when the archive was built


@dataclass(frozen=True)
class MapSource:
    """The layers that one map is read at."""

    layers: tuple[str, ...]
    added: bool = False  # several layers' maps are added up, as those of an ensemble's members; else they are fused
    share: float = 1.0  # of the scores' variance that passes them
    of_tokens: bool = False  # whether a cell is a token

    @property
    def name(self) -> str:
        """The name in an answer."""
        return "+".join(self.layers)


def clip_box(box: Box, width: float, height: float) -> Box | None:
    """Return the part of a box that lies in a picture of these pixels; None: nothing does."""
    left, top, right, bottom = max(0.0, box[0]), max(0.0, box[1]), min(width, box[2]), min(height, box[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


TRAITS = ("grey", "deep", "cmyk", "flattened", "rotated", "animated")  # what an uploaded picture may be, besides RGB


@dataclass(frozen=True)
class Picture:
    """An uploaded picture, decoded and upright."""

    image: Image.Image  # RGB, perhaps smaller than the upload: no larger than the network or a drawing needs
    format: str  # JPEG, PNG, ...
    width: int  # of the upload, in pixels after EXIF rotation
    height: int
    traits: Sequence[str] = ()  # of ``TRAITS``
    seen: Image.Image | None = None  # what the network is shown: RGB, L, F (0..255) or RGBA; None: ``image``
    guessed_depth: int | None = None  # bits of a 16-bit grey picture, where nothing says them for certain


@dataclass(frozen=True)
class TargetRequest:
    """One class that a caller asks about, before the scores are known."""

    kind: str  # "predicted", "class", "top", or "next" for a contrast with the runner-up
    number: int = 0  # the class index, or K of top:K
    asked: str = "predicted"  # in the caller's words


@dataclass(frozen=True)
class ChannelChoice:
    """The feature maps that a map is made of, before the weights are known."""

    kind: str  # numbers, top, weights, or activation: one feature map itself
    numbers: tuple[int, ...] = ()  # of the channels, or K of top:K
    window: tuple[float, float] = (0.0, 0.0)  # of the weights, both ends in it

    @property
    def last(self) -> int:
        """The largest channel number that is named, -1: none is."""
        return max(self.numbers, default=-1) if self.kind in ("numbers", "activation") else -1

    @property
    def asked(self) -> str:
        """The words of a request that choose them."""
        if self.kind == "numbers":
            return ",".join(map(str, self.numbers))
        if self.kind == "weights":
            return f"weights:{self.window[0]:g}..{self.window[1]:g}"
        return f"{self.kind}:{self.numbers[0]}"


@dataclass(frozen=True)
class Condition:
    """When to explain, decided by the prediction itself: ``probability<0.6``."""

    quantity: str  # probability, margin, or label
    operator: str  # < <= > >= = !=
    limit: float  # of a label, the index of its class: several classes may have one name


@dataclass(frozen=True)
class Options:
    """The options of one request, checked against the model."""

    head: int = 0  # which output of the network is asked
    context: str = ""  # what the archive's ``score`` gets beside the picture
    explain: bool | Condition = True
    targets: tuple[TargetRequest, ...] = (TargetRequest("predicted"),)
    contrast: TargetRequest | None = None  # kind "class" or "next"
    methods: tuple[str, ...] = ("gradcam",)
    layers: tuple[str, ...] = ()  # several are fused; empty: the first of the archive
    channels: ChannelChoice | None = None  # None: all of them
    evidence: str = EVIDENCE[0]
    formats: tuple[str, ...] = FORMATS[:1]
    size: int | None = None  # longest side of drawn pictures, pixels
    top_k: int = 5
    details: frozenset[str] = frozenset()
    deadline_ms: int | None = None  # after which the maps that are not ready are skipped
    compat: str | None = None  # the library whose rendering is reproduced
    palette: str = PALETTES[0]
    opacity: float = 0.6
    box_threshold: float = 0.2  # of the maximum, which what is boxed reaches
    legend: bool = False  # whether drawn maps carry a colour bar
    caption: bool = False  # whether they carry words and a colour bar
    picture: str | None = None  # JPEG, PNG or WEBP: the overlay itself is the body


@dataclass(frozen=True)
class Request:
    """One accepted row: the network's input, and the options."""

    picture: Picture
    pixels: np.ndarray  # (H, W, C) of the network's own size, 0..255: uint8, or float32 of a deep picture
    region: Box  # the part of the uploaded picture that they show
    options: Options
    request_id: str
    row: int  # its place among those of one forward pass
    until: float = math.inf  # time.monotonic() after which no pass is begun for its explanations
    spare_until: float = math.inf  # and none of slow methods, and no second drawing
    preview: np.ndarray | None = None  # (H, W, 3) uint8 of the region, where ``pixels`` are made by a transform


def significant(value: float) -> float:
    """Keep six significant digits, enough to restore a map in float32."""
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Prediction:
    """One class of one row, or one quantity."""

    index: int
    label: str
    probability: float | None  # None: of a quantity
    score: float  # before softmax; a quantity's value
    unit: str | None = None  # of a quantity

    @property
    def meaning(self) -> dict[str, object]:
        """What the score says, in an answer's words: a probability, or a value and its unit."""
        if self.probability is None:
            return {"value": significant(self.score), "unit": self.unit}
        return {"probability": round(self.probability, 6)}


@dataclass(frozen=True)
class Target:
    """The class that an explanation is about."""

    prediction: Prediction
    asked: str


@dataclass(frozen=True)
class Explanation:
    """One map of one row, with its target, measures and warnings."""

    status: str  # ok, blank, skipped, failed
    method: str
    layer: str
    evidence: str
    target: Target
    contrast: Prediction | None = None
    grid: np.ndarray | None = None  # (h, w) float32: 0..1, or -1..1 when signed
    scale: float = 0.0  # grid * scale is the raw map
    strength: float | None = None  # 0..1, of what a predicted class usually has; None: not known
    shown: float = 1.0  # by which the drawn map is fainter: weak evidence is drawn weak
    compat: str | None = None  # the grid is what this library returns, at the input's resolution
    of_tokens: bool = False  # whether a cell of the layer is a token
    boxes: tuple[Box, ...] = ()  # in the uploaded picture's pixels
    images: Mapping[str, str] = field(default_factory=dict)  # format -> data URI
    balance: Mapping[str, float | None] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[AnswerWarning, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The whole answer to one row."""

    request: Request
    predictions: tuple[Prediction, ...]
    explanations: tuple[Explanation, ...] = ()
    warnings: tuple[AnswerWarning, ...] = ()
    head: str = ""  # the name of the output that was asked, where there are several
    timing_ms: Mapping[str, float] = field(default_factory=dict)
