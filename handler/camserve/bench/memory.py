"""The peak memory of one forward pass, plain or explained, each in a process of its own.

``python -m camserve.bench.memory JSON`` prints it in bytes.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from camserve.bench.networks import SIDE, BenchNetwork, build_classifier, load_subject
from camserve.bench.photos import load_pixels
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.settings import RuntimeSpec
from camserve.values import Layer

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Freed memory returns to the system at once: the peak is what the passes need, not what the allocator keeps.
RELEASE_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PASSES = 2


def measure_fresh_peak(subject: BenchNetwork, batch: int, classes: int) -> int:
    """Return the bytes that passes over ``batch`` photos take beyond the loaded model; 0 classes: plain.

    ConfigError: the process failed, or this system does not report the peak of a process.
    """
    if not STATUS.is_file():
        raise ConfigError("not measured: only Linux tells the peak memory of one process")
    task = {
        "name": subject.name,
        "layer": dataclasses.asdict(subject.layer),
        "runtime": dataclasses.asdict(subject.runtime),
        "batch": batch,
        "classes": classes,
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", __name__, json.dumps(task)]
    done = subprocess.run(command, env={**os.environ, **RELEASE_AT_ONCE}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"not measured: {(done.stderr.strip().splitlines() or ['no reason given'])[-1][:120]}")
    return int(done.stdout)


def measure_cuda_peak(subject: BenchNetwork, batch: int, classes: int, device: torch.device) -> int:
    """Return the bytes that the same passes take on a GPU."""
    photos = load_pixels(batch, SIDE, device)
    torch.cuda.empty_cache()
    loaded = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _run(subject, photos, classes)
    return int(torch.cuda.max_memory_allocated(device) - loaded)


def _run(subject: BenchNetwork, photos: torch.Tensor, classes: int) -> None:
    for _ in range(PASSES):
        if classes:
            subject.explain(photos, classes)
        else:
            subject.predict(photos)


def _measure(task: Mapping[str, Any]) -> int:
    torch.set_num_threads(task["threads"])
    cpu = torch.device("cpu")
    network = ScoringNetwork(build_classifier(task["name"])).eval()
    subject = load_subject(task["name"], network, Layer(**task["layer"]), RuntimeSpec(**task["runtime"]), cpu)
    photos = load_pixels(task["batch"], SIDE, cpu)
    _run(subject, photos[:1], task["classes"])
    gc.collect()
    loaded = _resident("VmRSS")
    RESET.write_text("5", encoding="ascii")  # forgets the peak of loading
    _run(subject, photos, task["classes"])
    # Not ru_maxrss: a child starts with its parent's.
    return _resident("VmHWM") - loaded


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(_measure(json.loads(sys.argv[1])))
