"""ONNX Runtime's plain prediction, as a peer of OpenVINO's."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from camserve.bench.pairs import Work
from camserve.errors import CompilationUnavailable, first_line

ONNX_RUNTIME = "ONNX Runtime alone, plain"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def onnx_runtime_work(network: nn.Module, photos: Tensor) -> Work:
    """Return the prediction of a float32 network on (N, C, H, W) ``photos``, with as many threads as torch has.

    Its threads do not spin between two passes: they would on the time of what is measured beside it.
    CompilationUnavailable: a package is missing, or the network cannot be exported.
    """
    try:
        _, _, runtime = (import_module(name) for name in PACKAGES)
    except ImportError as error:
        needed = " ".join(PACKAGES)
        raise CompilationUnavailable(f"{first_line(error)}: pip install {needed}") from None
    options: Any = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(_export(network, photos), options, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    return partial(session.run, None, {pixels.name: photos.contiguous().numpy()})


def _export(network: nn.Module, photos: Tensor) -> bytes:
    """Return a network as ONNX, for batches of as many ``photos``."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(network, (photos.contiguous(),), dynamo=True, verbose=False)
            assert program is not None
            return bytes(program.model_proto.SerializeToString())
    except Exception as error:
        raise CompilationUnavailable(f"torch cannot export the network as ONNX: {first_line(error)}") from None
