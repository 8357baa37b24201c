"""How long a network's numbers are."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from camserve.settings import RuntimeSpec

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(runtime: RuntimeSpec) -> torch.dtype:
    """Return the type of the pixels, weights and activations that torch handles; OpenVINO shortens its own."""
    return DTYPES[runtime.precision] if runtime.mode == "eager" else torch.float32


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Shorten all numbers of a network but those of batch normalisations: rounding these costs accuracy."""
    exact = [
        (module, copy.deepcopy(module.state_dict())) for module in network.modules() if isinstance(module, _BatchNorm)
    ]
    network.to(dtype)
    for module, numbers in exact:
        module.float().load_state_dict(numbers)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 convolutions and products in float32 while the block runs: a GPU may shorten them to TF32.

    Two forms of one network are compared in it: TF32 alone changes more than rounding.
    """
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
