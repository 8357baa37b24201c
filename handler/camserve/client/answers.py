"""The answer to one photo, typed: docs/answers.md says what each field means."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from camserve.answer.caption import DIGITS, word_channels, word_subject
from camserve.answer.render import encode
from camserve.answer.respond import word_meaning
from camserve.choices import PALETTES
from camserve.client.drawing import draw_explanation
from camserve.client.notebook import render_html
from camserve.errors import ConfigError, UnexpectedAnswer, first_line
from camserve.values import Box
from camserve.warning_codes import AnswerWarning

Block = Mapping[str, Any]
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class AnsweringModel:
    """Which model answered."""

    name: str
    version: str
    weights: str


@dataclass(frozen=True)
class UploadedPicture:
    """The photo as the server read it."""

    width: int  # pixels, after EXIF rotation
    height: int
    format: str
    region: Box  # the part that the grid covers, in its pixels


@dataclass(frozen=True)
class Prediction:
    """One class, or one quantity of a regression."""

    index: int
    label: str
    score: float  # what is explained
    probability: float | None = None  # None: of a quantity
    value: float | None = None  # of a quantity
    unit: str | None = None

    @property
    def meaning(self) -> str:
        """The probability, or the value and its unit, as text."""
        return word_meaning(vars(self), DIGITS)


@dataclass(frozen=True)
class Target(Prediction):
    """The class that an explanation is about."""

    asked: str = ""  # the words that asked for it


@dataclass(frozen=True)
class GivenWarning(AnswerWarning):
    """A warning of an answer."""

    explanation: int | None = None  # the place of the map that it is about; None: about the whole answer


@dataclass(frozen=True)
class Balance:
    """Shares of the signed map."""

    positive: float | None = None
    negative: float | None = None
    share_of_score: float | None = None


@dataclass(frozen=True)
class Signs:
    """Shares of the mass of weight times activation by their signs, the weight's first."""

    pp: float
    pn: float
    np: float
    nn: float


@dataclass(frozen=True)
class OfChannels:
    """Of which channels a map is made, where the request chose some."""

    asked: str  # the words that chose them
    count: int
    channels: tuple[int, ...]  # the 100 strongest at most, the strongest first
    share: float | None  # of the evidence of all channels; None: that is not finite


@dataclass(frozen=True)
class Explanation:
    """One map."""

    status: str  # ok, blank, skipped, failed
    method: str
    layer: str
    evidence: str  # for, against, signed
    target: Target
    contrast: Prediction | None
    grid: np.ndarray | None = field(compare=False)  # (h, w) float32, read-only: 0..1, or -1..1 when signed
    scale: float  # grid * scale is the raw map
    strength: float | None = None  # 0..1
    shown: float = 1.0  # by which the drawn map is fainter
    boxes: tuple[Box, ...] = ()  # in pixels of the uploaded picture
    images: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # what the server drew: format -> JPEG file
    balance: Balance = field(default_factory=Balance)
    compat: str | None = None
    signs: Signs | None = None
    channels: tuple[Block, ...] = ()
    of_channels: OfChannels | None = None
    orientation: float | None = None
    raw: Block = field(default_factory=dict, repr=False)  # the JSON, with fields that are newer than this client

    @property
    def subject(self) -> str:
        """What the map is about, in words."""
        return self._word("")

    @property
    def question(self) -> str:
        """The method and what its map is about, in words."""
        return self._word(f"{self.method}: ")

    def _word(self, start: str) -> str:
        against = "against " if self.evidence == "against" else ""
        subject = word_subject(self.target.label, self.contrast.label if self.contrast else None)
        chosen = None if self.of_channels is None else vars(self.of_channels)
        return word_channels(f"{start}{against}{subject}", chosen)


@dataclass(frozen=True)
class Answer:
    """The whole answer to one photo."""

    model: AnsweringModel
    request_id: str
    input: UploadedPicture
    predictions: tuple[Prediction, ...]  # the most probable first
    explanations: tuple[Explanation, ...]
    warnings: tuple[GivenWarning, ...]
    evidence_card: str | None = None  # the id of what was measured of the archive's maps
    head: str | None = None
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    photo: bytes = field(default=b"", repr=False, compare=False)  # the file that was sent
    raw: Block = field(default_factory=dict, repr=False)  # the JSON, with fields that are newer than this client

    def overlay(
        self,
        explanation: int = 0,
        *,
        kind: str = "overlay",
        size: int | None = None,
        palette: str = PALETTES[0],
        opacity: float = 0.6,
    ) -> Image.Image:
        """Draw one map on the photo, RGB, from its grid; ``kind`` may be heatmap or mask.

        ``size`` is the longest side in pixels, else the photo's, at most 1024. ConfigError: there is no such map.
        """
        if not 0 <= explanation < len(self.explanations):
            raise ConfigError(f"the answer has no explanation {explanation}; it has {len(self.explanations)}")
        return draw_explanation(self, self.explanations[explanation], kind, size, palette, opacity)

    def show(self, explanation: int = 0) -> None:
        """Open one map on the photo in this machine's picture viewer."""
        self.overlay(explanation).show()

    def _repr_html_(self) -> str:
        return render_html(self)

    def _repr_png_(self) -> bytes | None:
        if not any(explanation.grid is not None for explanation in self.explanations[:1]):
            return None
        return encode(self.overlay(), "PNG")


def read_answer(block: object, photo: bytes) -> Answer:
    """Return the answer that JSON says to ``photo``. UnexpectedAnswer: it is not camserve's."""
    if not isinstance(block, Mapping) or "predictions" not in block:
        raise UnexpectedAnswer("the answer is not camserve's: does another handler, or compat=torchserve, answer?")
    try:
        return _pick(
            Answer,
            block,
            model=_pick(AnsweringModel, block["model"]),
            input=_pick(UploadedPicture, block["input"], region=tuple(block["input"]["region"])),
            predictions=tuple(_pick(Prediction, prediction) for prediction in block["predictions"]),
            explanations=tuple(_read_explanation(explanation) for explanation in block["explanations"]),
            warnings=tuple(_pick(GivenWarning, warning) for warning in block["warnings"]),
            photo=photo,
            raw=block,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswer(
            f"the answer lacks what camserve's has ({type(error).__name__}: {first_line(error)})"
        ) from None


def _read_explanation(block: Block) -> Explanation:
    optional: dict[str, Callable[[Any], Any]] = {
        "signs": lambda signs: _pick(Signs, signs),
        "channels": tuple,
        "of_channels": lambda chosen: _pick(OfChannels, chosen, channels=tuple(chosen["channels"])),
        "images": lambda images: {name: _decode_uri(uri) for name, uri in images.items()},
        "balance": lambda balance: _pick(Balance, balance),
        "boxes": lambda boxes: tuple(tuple(box) for box in boxes),
    }
    return _pick(
        Explanation,
        block,
        target=_pick(Target, block["target"]),
        contrast=None if block["contrast"] is None else _pick(Prediction, block["contrast"]),
        grid=_read_grid(block["grid"]),
        raw=block,
        **{name: read(block[name]) for name, read in optional.items() if name in block},
    )


def _read_grid(rows: Any) -> np.ndarray | None:
    if rows is None:
        return None
    grid = np.array(rows, np.float32)
    grid.setflags(write=False)
    return grid


def _decode_uri(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def _pick(kind: type[Kind], block: Block, **converted: Any) -> Kind:
    """Return a dataclass from the keys of a block that it has, and from what was converted."""
    names = {known.name for known in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: block[name] for name in block if name in names and name not in converted}, **converted)
