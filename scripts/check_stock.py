"""Ask a stock TorchServe and this environment the same question, and compare."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import requests

from camserve.build.locate import find_file
from camserve.build.unpack import open_archive
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.values import RawRequest

ARCHIVE = Path("model_store/imagenet.mar")
PHOTO = "package://skimage/data/coffee.png"
TOLERANCE = 1e-3  # of probabilities and grids: torch and Pillow are years apart


def main() -> int:
    photo = find_file(PHOTO).read_bytes()
    with open_archive(ARCHIVE) as pipeline:
        here = json.loads(pipeline.answer([RawRequest(photo)])[0].body)
    with tempfile.TemporaryDirectory() as folder:
        stock = Path(".venv-stock/bin/python").absolute()
        with Server([ARCHIVE], Path(folder), free_ports(), python=stock) as server:
            url, headers = f"{server.inference.url}/predictions/imagenet", server.inference.headers
            there = requests.post(url, headers=headers, data=photo, timeout=60).json()
    best = [answer["predictions"][0] for answer in (here, there)]
    grids = [np.array(answer["explanations"][0]["grid"]) for answer in (here, there)]
    far = max(abs(best[0]["probability"] - best[1]["probability"]), float(np.abs(grids[0] - grids[1]).max()))
    print(f"here  {best[0]['label']} {best[0]['probability']}\nstock {best[1]['label']} {best[1]['probability']}")
    print(f"largest difference of probability and grid: {far:.1e} (tolerance {TOLERANCE})")
    return int(best[0]["index"] != best[1]["index"] or far > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
