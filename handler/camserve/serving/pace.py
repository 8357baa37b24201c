"""How long a batch may take, so that those who wait behind it are answered soon."""

from __future__ import annotations

import logging
import math
import time

logger = logging.getLogger(__name__)

LEAST_SECONDS = 1.0  # of a batch, where the archive says nothing
BATCHES = 3  # as many times as long as a full batch of small pictures took
MAPS = 1.5  # as many times as long as a map by the slowest method took
OF_TIMEOUT = 2 / 3  # of the time after which the server ends a worker
LARGE_PICTURES = 1 / 4  # of a batch's time, within which decoding a large one may begin


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


def seconds_of_a_batch(limit_ms: int | None, usual: float, slowest_map: float, timeout: float) -> float:
    """Return the time of a batch: ``limits.answer_ms``, or what suits a machine.

    There a full batch of small pictures takes ``usual`` seconds, and one map by the slowest method ``slowest_map``. At
    most two thirds of ``timeout``, the seconds after which the server ends a worker that has not answered.
    """
    wanted = max(LEAST_SECONDS, BATCHES * usual, MAPS * slowest_map) if limit_ms is None else limit_ms / 1000
    given = min(wanted, timeout * OF_TIMEOUT)
    if limit_ms is not None and given < wanted:
        logger.warning(
            "camserve: limits.answer_ms is %d, but responseTimeout ends the worker after %.0f s: a batch gets %.1f s",
            limit_ms,
            timeout,
            given,
        )
    return given
