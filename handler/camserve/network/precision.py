"""How long a network's numbers are."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Shorten all numbers of a network but those of batch normalisations: rounding these costs accuracy."""
    exact = [
        (module, copy.deepcopy(module.state_dict())) for module in network.modules() if isinstance(module, _BatchNorm)
    ]
    network.to(dtype)
    for module, numbers in exact:
        module.float().load_state_dict(numbers)
