"""Intervals and comparisons of photos' measures."""

from __future__ import annotations

import numpy as np

DRAWS = 2000
SEED = 0


def bootstrap(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of (P,) values with its 95 % percentile interval."""
    drawn = np.random.default_rng(SEED).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def interval(values: np.ndarray) -> str:
    """Return the same as text."""
    mean, low, high = bootstrap(values)
    return f"{mean:.2f} [{low:.2f} {high:.2f}]"


def sign_flip(differences: np.ndarray) -> float:
    """Return the two-sided p of paired differences (P,), whose signs are as good as random where nothing differs."""
    signs = np.random.default_rng(SEED).choice((-1.0, 1.0), size=(DRAWS, len(differences)))
    drawn = np.abs((signs * differences).mean(axis=1))
    # Equal sums may differ in their last digit.
    return float((1 + (drawn >= abs(differences.mean()) - 1e-12).sum()) / (1 + DRAWS))
