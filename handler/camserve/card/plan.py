"""What a card is to show, and what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class CardPlan:
    """What a card is to show."""

    classes: tuple[str, ...] = ()  # none: the best class of the photo
    channels: tuple[int, ...] = ()  # none: those that carry most of the evidence for or against the first class
    layer: str | None = None  # of the archive's; None: its first
    photo: Path | None = None  # None: the archive's first sample
    concepts: Path | None = None  # a folder of photos with masks, beside the drawn set
    steps: int = 128  # of gradient ascent, for one picture
    seed: int = 0


@dataclass(frozen=True)
class CardPhoto:
    """The photo of a card, and what was asked about it."""

    name: str
    picture: Tensor  # (3, H, W), 0..1
    classes: Sequence[int]
    channels: Sequence[int]
    remark: str = ""  # on how the channels were chosen, where not as usual
