"""How long a batch may take, so that those who wait behind it are answered soon."""

from __future__ import annotations

import logging
import math
import time

from camserve.attribution.methods import METHODS
from camserve.settings import Settings

logger = logging.getLogger(__name__)

LEAST_SECONDS = 1.0  # of a batch, where the archive says nothing
SECONDS_FOR_SLOW_METHODS = 10.0
USUAL_BATCHES = 3  # as many times as long as a full batch of small pictures took
OF_TIMEOUT = 2 / 3  # of the time after which the server ends a worker
LARGE_PICTURES = 1 / 2  # of a batch's time, within which decoding a large one may begin


class Pace:
    """The time of a batch, and how much of it a picture takes; without a server nobody waits, and it has no end."""

    def __init__(self, seconds: float = math.inf) -> None:
        """Allow ``seconds`` from a batch's arrival."""
        self.seconds = seconds
        self._per_picture = 0.0  # seconds, of the last forward pass and what belongs to it

    def took(self, seconds: float, pictures: int) -> None:
        """Remember how long a group of pictures took, from decoding to writing."""
        if pictures:
            self._per_picture = seconds / pictures

    def has_time(self, pictures: int, until: float) -> bool:
        """Whether so many more pictures will be answered before ``until`` of time.monotonic()."""
        return time.monotonic() + pictures * self._per_picture <= until


def seconds_of_a_batch(settings: Settings, usual: float, timeout: float) -> float:
    """Return the time of a batch: ``limits.answer_ms``, or what suits a machine that takes ``usual`` seconds for one.

    At most two thirds of ``timeout``, the seconds after which the server ends a worker that has not answered.
    """
    most = timeout * OF_TIMEOUT
    if settings.limits.answer_ms is not None:
        wanted = settings.limits.answer_ms / 1000
        if wanted > most:
            logger.warning(
                "camserve: limits.answer_ms is %.0f, responseTimeout ends the worker after %.0f ms: a batch gets %.0f",
                wanted * 1000,
                timeout * 1000,
                most * 1000,
            )
        return min(wanted, most)
    least = SECONDS_FOR_SLOW_METHODS if any(METHODS[name].slow for name in settings.methods) else LEAST_SECONDS
    return min(max(least, USUAL_BATCHES * usual), most)
