"""One row fails alone: whatever work on it raises becomes its refusal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from camserve.errors import ConfigError, InternalError, ModelFailed, OutOfMemory, RequestError

Row = TypeVar("Row")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def attempt(work: Callable[..., Result], *args: object) -> Result | RequestError:
    """Call ``work``; whatever it raises becomes the refusal of its row or rows."""
    try:
        return work(*args)
    except RequestError as error:
        return _without_frames(error)
    except ConfigError as error:  # the network did what it did not do at the build
        logger.error("camserve: %s", error)
        return ModelFailed(str(error))
    except (MemoryError, torch.cuda.OutOfMemoryError):
        logger.exception("out of memory")
        return OutOfMemory("there is not enough memory for this picture")
    except Exception as error:
        logger.exception("unexpected failure")
        kind = ModelFailed if isinstance(error, RuntimeError) else InternalError
        return kind(f"the server failed on this picture ({type(error).__name__}); the log says more")


def _without_frames(error: RequestError) -> RequestError:
    """Free what a refusal's traceback holds: the row's bytes, until Python's collector comes by."""
    error.__context__ = None
    return error.with_traceback(None)


def attempt_rows(
    work: Callable[[Sequence[Row]], Sequence[Result | RequestError]], rows: Sequence[Row]
) -> list[Result | RequestError]:
    """Return what ``work`` makes of the rows together; where that fails, of halves, until the culprit stands alone."""
    if not rows:
        return []
    outcome = attempt(work, rows)
    if not isinstance(outcome, RequestError):
        return list(outcome)
    if len(rows) == 1:
        return [outcome]
    half = len(rows) // 2
    return attempt_rows(work, rows[:half]) + attempt_rows(work, rows[half:])
