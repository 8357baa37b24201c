"""The formula of each signal: a view of N rows -> (N,), one value a row."""

from __future__ import annotations

import numpy as np

from camserve.monitor.views import Column, Inputs, Maps, Predictions, moments

TINY = 1e-12  # keeps the logarithm of an empty cell finite
LEAST_SHARE = 1e-3  # added to the share of the ring: the logarithm of an empty one would outweigh all others


def confidence(view: Predictions) -> Column:
    """The probability of the best class."""
    return view.confidence


def margin(view: Predictions) -> Column:
    """Best minus second probability."""
    assert view.probabilities is not None
    others = view.probabilities.copy()
    np.put_along_axis(others, others.argmax(axis=1, keepdims=True), 0, axis=1)
    return view.confidence - others.max(axis=1)


def entropy(view: Predictions) -> Column:
    """The entropy of the probabilities, as a share of its maximum."""
    assert view.probabilities is not None
    # Those of independent labels do not add up to 1.
    shares = view.probabilities / view.probabilities.sum(axis=1, keepdims=True)
    return -(shares * np.log(shares + TINY)).sum(axis=1) / np.log(max(2, shares.shape[1]))


def energy(view: Predictions) -> Column:
    """Logsumexp of the scores."""
    return view.energy


def log_mass(view: Maps) -> Column:
    """The logarithm of a map's sum."""
    return np.log(view.mass)


def peak(view: Maps) -> Column:
    """The largest cell of a map."""
    return view.raw.max(axis=(1, 2))


def area(view: Maps) -> Column:
    """The inverse participation ratio of a map, as a share of its cells."""
    return 1 / (view.cells * np.einsum("mp,mp->m", view.shares, view.shares))


def centroid_x(view: Maps) -> Column:
    """The mean column of the evidence, 0..1."""
    return view.places[:, 0]


def centroid_y(view: Maps) -> Column:
    """The mean row of the evidence, 0..1."""
    return view.places[:, 1]


def elongation(view: Maps) -> Column:
    """The logarithm of the evidence's standard deviation across over that down."""
    x, y, _, xx, yy = view.places.T
    return np.log((xx - x * x) / (yy - y * y)) / 2


def border(view: Maps) -> Column:
    """The share of the evidence in the outer ring."""
    return view.places[:, 2]


def border_mass(view: Maps) -> Column:
    """The logarithm of the evidence in the outer ring."""
    return np.log(view.mass * (view.places[:, 2] + LEAST_SHARE))


def negative(view: Maps) -> Column:
    """The share of the signed map's mass below 0."""
    return view.negative


def brightness(view: Inputs) -> Column:
    """Mean luma."""
    return view.moments[0]


def contrast(view: Inputs) -> Column:
    """The standard deviation of luma."""
    return np.sqrt(view.moments[1])


def sharpness(view: Inputs) -> Column:
    """The logarithm of the variance of the Laplacian."""
    grey = view.grey
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    for neighbour in (grey[:, 1:-1, :-2], grey[:, 1:-1, 2:]):
        laplacian += neighbour
    laplacian -= 4 * grey[:, 1:-1, 1:-1]
    return np.log(moments(laplacian)[1] + TINY)


def saturation(view: Inputs) -> Column:
    """Mean saturation, as in HSV."""
    red, green, blue = view.planes
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    return 1 - ((low + TINY) / (high + TINY)).sum(axis=(1, 2)) / low[0].size


def red_minus_blue(view: Inputs) -> Column:
    """Mean red minus mean blue."""
    red, _, blue = view.planes
    return (red - blue).sum(axis=(1, 2)) / red[0].size


def aspect(view: Inputs) -> Column:
    """The logarithm of width over height."""
    return np.log(view.sizes[:, 0] / view.sizes[:, 1])


def log_pixels(view: Inputs) -> Column:
    """The decimal logarithm of the number of pixels."""
    return np.log10(view.sizes[:, 0] * view.sizes[:, 1])
