"""Which photos and which maps are measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camserve.attribution.methods import METHODS
from camserve.errors import ConfigError, unknown_choice
from camserve.evaluate.photos import LabelledPhoto
from camserve.evaluate.plan import Variant
from camserve.settings import Settings


def choose_photos(photos: Sequence[LabelledPhoto], count: int | None, seed: int) -> list[LabelledPhoto]:
    """Return so many photos, drawn at random and in their order; None: all."""
    if count is None or count >= len(photos):
        return list(photos)
    drawn = np.random.default_rng(seed).choice(len(photos), size=max(count, 1), replace=False)
    return [photos[number] for number in sorted(drawn)]


def choose_variants(settings: Settings, methods: Sequence[str], layers: Sequence[str]) -> tuple[Variant, ...]:
    """Return the maps to compare: those named, or the archive's default method and all that take one pass.

    ConfigError: the archive does not offer one of them.
    """
    for method in methods:
        if method not in settings.methods:
            raise ConfigError(unknown_choice(method, settings.methods, "--methods"))
    for layer in layers:
        if layer not in {known.name for known in settings.layers}:
            raise ConfigError(unknown_choice(layer, [known.name for known in settings.layers], "--layers"))
    quick = [name for name in settings.methods if not METHODS[name].slow]
    chosen = methods or dict.fromkeys((settings.defaults.method, *quick))
    return tuple(Variant(method, layer) for layer in layers or ("",) for method in chosen)


def usual_measure(photos: Sequence[LabelledPhoto]) -> str:
    """Return what decides where nobody says: a measure of place, where that of objects is known."""
    return "energy" if any(photo.boxes or photo.masks for photo in photos) else "insertion"
