"""A network in twice the precision, to tell rounding from faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def in_float64(network: nn.Module) -> Iterator[None]:
    """Hold a float32 network in float64 while the block runs; every float32 number survives that.

    RuntimeError: it holds numbers of another precision. Code that names float32 raises one of torch's own.
    """
    numbers = chain(network.parameters(), network.buffers())
    if other := {tensor.dtype for tensor in numbers if tensor.is_floating_point()} - {torch.float32}:
        raise RuntimeError(f"the network holds numbers of {other.pop()}")
    try:
        network.double()
        yield
    finally:
        network.float()
