"""Names for channels: Network Dissection (Bau et al. 2017, arXiv:1704.05796)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from camserve.card.concepts import ConceptPicture
from camserve.card.subject import Subject

ACTIVE = 0.005  # of all positions of all pictures: the paper's share above a channel's threshold
DETECTS = 0.04  # intersection over union above which the paper calls a channel a detector
SIDE = 28  # rows and columns on which activations and masks are compared
PICTURES_AT_ONCE, CHANNELS_AT_ONCE = 16, 32


@dataclass(frozen=True)
class Dissection:
    """How well each channel marks each concept."""

    concepts: tuple[str, ...]
    overlap: Tensor  # (K, M): intersection over union
    pictures: int

    def name(self, channel: int) -> tuple[str, float] | None:
        """Return the concept that a channel detects and their overlap; None: it detects none of these."""
        best = int(self.overlap[channel].argmax())
        value = float(self.overlap[channel, best])
        return (self.concepts[best], value) if value > DETECTS else None

    def best(self, concept: str) -> tuple[int, float]:
        """Return the channel that marks a concept best, and their overlap."""
        column = self.overlap[:, self.concepts.index(concept)]
        return int(column.argmax()), float(column.max())


def dissect(subject: Subject, pictures: Iterable[ConceptPicture]) -> Dissection:
    """Compare where each channel is most active with where each concept is.

    Of all positions of all pictures the ``ACTIVE`` share with a channel's largest activations are its own. Their
    intersection with the concept's mask is divided by their union, over all pictures together: what no mask names must
    be absent.
    """
    maps, masks = [], []
    waiting: list[ConceptPicture] = []
    names: dict[str, None] = {}
    for picture in pictures:
        names.update(dict.fromkeys(picture.masks))
        masks.append({name: _shrink(mask) for name, mask in picture.masks.items()})
        waiting.append(picture)
        if len(waiting) == PICTURES_AT_ONCE:
            maps.append(_look(subject, waiting))
            waiting = []
    if waiting:
        maps.append(_look(subject, waiting))
    nothing = torch.zeros(SIDE * SIDE, dtype=torch.bool)
    truth = torch.stack([torch.cat([mask.get(name, nothing) for mask in masks]) for name in names]).float()
    parts = (
        torch.cat([some[:, start : start + CHANNELS_AT_ONCE] for some in maps])
        for start in range(0, maps[0].shape[1], CHANNELS_AT_ONCE)
    )
    return Dissection(tuple(names), torch.cat([_overlap(part, truth) for part in parts]), len(masks))


def join(drawn: Dissection, own: Dissection) -> Dissection:
    """Return both dissections of a layer as one; the second's concepts are named as those of photos."""
    concepts = (*drawn.concepts, *(f"{name} (photos)" for name in own.concepts))
    return Dissection(concepts, torch.cat([drawn.overlap, own.overlap], dim=1), drawn.pictures + own.pictures)


def _look(subject: Subject, pictures: list[ConceptPicture]) -> Tensor:
    """Return the feature maps (N, K, h, w) on the CPU, not larger than what they are compared on."""
    with torch.no_grad():
        maps = subject.look(torch.stack([picture.picture for picture in pictures]))[1]
        return (_resize(maps) if maps[0, 0].numel() > SIDE * SIDE else maps).cpu()


def _resize(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def _shrink(mask: np.ndarray) -> Tensor:
    values = torch.from_numpy(mask).float()[None, None]
    return functional.interpolate(values, size=(SIDE, SIDE), mode="area").flatten() > 0.5


def _overlap(maps: Tensor, truth: Tensor) -> Tensor:
    """Return the intersection over union (k, M) of channels' maps (N, k, h, w) and masks (M, N * SIDE^2)."""
    values = _resize(maps).permute(1, 0, 2, 3).flatten(1)
    count = max(1, round(ACTIVE * values.shape[1]))
    threshold = values.topk(count, dim=1).values[:, -1:]
    # A channel that is zero nearly everywhere has no threshold above zero: all of it would count.
    active = ((values >= threshold) & (values > values.amin(dim=1, keepdim=True))).float()
    both = active @ truth.T
    union = active.sum(dim=1, keepdim=True) + truth.sum(dim=1) - both
    return torch.where(union > 0, both / union, 0.0)
