"""Time OpenVINO XAI beside OpenVINO's plain prediction, in seconds of the processor, one picture, paired rounds.

It needs an environment of its own (pip install openvino_xai==1.1.0 . torch torchvision), since it asks for NumPy 1 and
OpenVINO 2024.4. Its default for convolutional networks is ReciproCAM, which is put into the graph for all classes.
"""

from __future__ import annotations

import statistics
import time
from importlib import import_module
from typing import Any

import torch
import torchvision

from camserve.fast.compiled import import_openvino

NETWORKS = ("resnet50", "mobilenet_v2")
THREADS, ROUNDS, PASSES = 2, 7, 3
SHAPE = (1, 3, 224, 224)  # of more pictures it does not find where to explain


def compile_both(name: str) -> tuple[Any, Any, Any]:
    """Return a network without and with its maps, compiled, and the pixels to show it."""
    openvino, xai = import_openvino(), import_module("openvino_xai")
    chosen = import_module("openvino_xai.common.parameters")
    torch.manual_seed(0)
    network, pixels = torchvision.models.get_model(name).eval(), torch.randn(SHAPE)
    with torch.no_grad():
        model = openvino.convert_model(torch.export.export(network, (pixels,)))
    explained = xai.insert_xai(model.clone(), task=chosen.Task.CLASSIFICATION, explain_method=chosen.Method.RECIPROCAM)
    hints = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    plain, explained = (openvino.Core().compile_model(graph, "CPU", hints) for graph in (model, explained))
    return plain, explained, pixels.numpy()


def cpu_seconds(compiled: Any, pixels: Any) -> float:
    """Return what some passes take, after one that is not counted."""
    compiled([pixels])
    began = time.process_time()
    for _ in range(PASSES):
        compiled([pixels])
    return time.process_time() - began


def main() -> None:
    """Print explained / plain of each network: the median and the quartiles."""
    for name in NETWORKS:
        plain, explained, pixels = compile_both(name)
        ratios = [cpu_seconds(explained, pixels) / cpu_seconds(plain, pixels) for _ in range(ROUNDS)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name}: {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
