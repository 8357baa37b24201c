"""What serving takes for granted of a network, tried before its archive is written.

A picture must get the same scores alone, beside others and again; else an answer depends on chance or on neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from camserve.build.trial.float64 import in_float64
from camserve.errors import ConfigError
from camserve.network.output import ROUNDING, ScoringNetwork
from camserve.values import Progress

SHOWN = 3  # names that a message lists


def check_rows(network: ScoringNetwork, pixels: Tensor) -> None:
    """Check that a network in eval mode answers each of (N, C, H, W) pictures by itself, N at least 3.

    ConfigError: two runs differ, or a picture's scores depend on those beside it; the message says why it may be.
    """
    with torch.no_grad():
        if not _alike(network(pixels), network(pixels)):
            raise ConfigError(
                "two runs on the same pictures give different scores: something in the network is random at "
                "inference (F.dropout without training=self.training, a random crop or noise); switch it off"
            )
        if not _rows_stay_apart(network, pixels) and not _rows_stay_apart_in_float64(network, pixels):
            raise ConfigError(
                f"a picture's scores depend on the pictures beside it{_blame(network)}: each picture must be answered "
                "by itself"
            )


def _rows_stay_apart(network: ScoringNetwork, pixels: Tensor) -> bool:
    together = network(pixels)
    parts = [(number, number + 1) for number in range(len(pixels))] + [(0, 2)]
    return all(_alike(together[start:stop], network(pixels[start:stop])) for start, stop in parts)


def _rows_stay_apart_in_float64(network: ScoringNetwork, pixels: Tensor) -> bool:
    """Tell rounding, which a deep network may amplify a thousand times, from rows that mix.

    A library may sum a single picture in another order than a batch.
    """
    try:
        with in_float64(network):
            return _rows_stay_apart(network, pixels.double())
    except RuntimeError:
        return False


def _alike(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= ROUNDING[torch.float32] * float(one.abs().max())


def _blame(network: nn.Module) -> str:
    """Name the normalisations that take their statistics from the batch."""
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, _NormBase) and not isinstance(module, nn.modules.instancenorm._InstanceNorm)
        if module.running_mean is None
    ]
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f" ({', '.join(names[:SHOWN])}{more} normalise over the batch: track_running_stats=False)"


def takes_channels_last(network: ScoringNetwork, pixels: Tensor, report: Progress) -> bool:
    """Say whether a network gives the same scores where the pixels' channels lie beside one another in memory.

    ``x.view(N, -1)`` behind a convolution fails on such pixels; the network is then served as it was written.
    """
    with torch.no_grad():
        expected = network(pixels.contiguous())
        try:
            found = network(pixels.contiguous(memory_format=torch.channels_last))
        except RuntimeError:
            report(
                "runtime.channels_last: false, since the network fails on such pixels (view() in place of flatten()?)"
            )
            return False
    if not _alike(expected, found):
        report("runtime.channels_last: false, since it changes the network's scores")
        return False
    return True
