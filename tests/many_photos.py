"""Runs over many pictures: the pictures, and the command."""

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from camserve.cli import main

COMMAND = [sys.executable, "-c", "import sys; from camserve.cli import main; sys.exit(main(sys.argv[1:]))"]


def smooth_picture(seed, size):
    """Make a picture of its own."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def write_photo(path: Path, seed=0, size=(80, 60)):
    """Write a picture of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth_picture(seed, size).save(path)
    return path


def explain(archive, *arguments):
    return main(["explain", *map(str, arguments), "--archive", str(archive)])


def wait_for(happens, process):
    for _ in range(1200):
        if happens() or process.poll() is not None:
            return
        time.sleep(0.1)
