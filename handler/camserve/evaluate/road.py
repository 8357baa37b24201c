"""Removing pixels so that what is left does not show where they were: ROAD, Rong et al. 2022, arXiv:2202.00449."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camserve.evaluate.measures import Scores

PERCENTILES = (20, 50, 80)  # of the map's cells: what is removed first, and what is kept
NOISE = 0.01  # deviation of what is added to imputed pixels, which would else be smoother than others
PRECISION = 1e-7  # of the residual, of its first size
MOST_STEPS = 2000
TINY = 1e-300


def road(values: np.ndarray, pixels: Tensor, scores: Scores, seed: int, noise: float = NOISE) -> float:
    """Return half of how much more removing the strongest pixels lowers the probability than removing the weakest.

    The mean over ``PERCENTILES``. ``values`` is a map (H, W), ``pixels`` (1, C, H, W). The thresholds are those of
    pytorch-grad-cam's ROADCombined.
    """
    spread = values.max() - values.min()
    scaled = (values - values.min()) / spread if spread > 0 else np.zeros_like(values)
    masks = [
        strength < np.percentile(strength, percent) for strength in (scaled, 1 - scaled) for percent in PERCENTILES
    ]
    shown = torch.cat([impute(pixels, mask, seed, noise) for mask in masks])
    without_strong, without_weak = np.split(scores(shown), 2)
    return float((without_weak - without_strong).mean() / 2)


def impute(pixels: Tensor, is_known: np.ndarray, seed: int, noise: float = NOISE) -> Tensor:
    """Return pixels (1, C, H, W) of which those that are not known (H, W) are the weighted mean of their neighbours.

    The linear system of section 4.1, solved by conjugate gradients in float64. Where nothing is known all are 0.
    """
    if is_known.all() or not is_known.any():
        return pixels * float(is_known.all())
    channels = pixels[0].double().cpu().numpy()
    solved = _solve(channels, is_known.astype(float))
    solved += ~is_known * noise * np.random.default_rng(seed).standard_normal(solved.shape)
    return torch.from_numpy(solved)[None].to(pixels)


def _solve(channels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return (C, H, W) with what is not ``known`` (H, W) solved for."""
    missing, given = 1 - known, channels * known
    sums = _neighbours(np.ones_like(known))  # less at the picture's edge
    guess = np.zeros_like(given)
    residual = missing * _neighbours(given)
    direction, size = residual, _norms(residual)
    end = PRECISION**2 * size
    for _ in range(MOST_STEPS):
        if (size <= end).all():
            break
        moved = missing * (sums * direction - _neighbours(direction))
        step = size / np.maximum((direction * moved).sum(axis=(1, 2), keepdims=True), TINY)
        guess = guess + step * direction
        residual = residual - step * moved
        before, size = size, _norms(residual)
        direction = residual + size / np.maximum(before, TINY) * direction
    return np.asarray(guess + given)


def _neighbours(values: np.ndarray) -> np.ndarray:
    """Return the weighted sum of each pixel's eight neighbours: 1/6 of those beside it, 1/12 of those at a corner."""
    edge = [(0, 0)] * (values.ndim - 2) + [(1, 1)] * 2
    padded = np.pad(values, edge)
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    return np.asarray((rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:] - 4 * values) / 12)


def _norms(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(values).sum(axis=(1, 2), keepdims=True))
