"""Ask a stock TorchServe and this environment the same question, and compare."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import Recipe
from camserve.input_spec import InputSpec
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.values import RawRequest

ARCHIVE = Path("model_store/imagenet.mar")
# A network whose scores are found before a function at its end, as torch 2.4 calls it.
NETWORK = """
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return functional.softmax(self.head(self.features(x).mean((2, 3))), dim=1)
"""
PHOTO = "package://skimage/data/coffee.png"
TOLERANCE = 1e-3  # of probabilities and grids: torch and Pillow are years apart


def main() -> int:
    photo = find_file(PHOTO).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        shipped = Path(shutil.copy(ARCHIVE, folder))  # a server's archives lie in one folder
        archives = [shipped, build_softmax(Path(folder))]
        here = [ask_here(archive, photo) for archive in archives]
        stock = Path(".venv-stock/bin/python").absolute()
        with Server(archives, Path(folder), free_ports(), python=stock) as server:
            there = [ask_server(server, archive.stem, photo) for archive in archives]
    differences = [compare(archive.stem, *pair) for archive, *pair in zip(archives, here, there)]
    return int(max(differences) > TOLERANCE)


def build_softmax(folder: Path) -> Path:
    scope: dict[str, Any] = {}
    exec(NETWORK, scope)
    torch.manual_seed(0)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    (folder / "net.py").write_text(NETWORK, encoding="utf-8")
    recipe = Recipe(
        "softmax",
        str(folder / "net.pt"),
        factory="Net",
        model_file=str(folder / "net.py"),
        preprocess=InputSpec(resize=64, crop=64),
    )
    return build_archive(recipe, folder, print)


def ask_here(archive: Path, photo: bytes) -> Any:
    with open_archive(archive) as pipeline:
        return json.loads(pipeline.answer([RawRequest(photo)])[0].body)


def ask_server(server: Server, name: str, photo: bytes) -> Any:
    url, headers = f"{server.inference.url}/predictions/{name}", server.inference.headers
    return httpx.post(url, headers=headers, content=photo, timeout=60).json()


def compare(name: str, here: Any, there: Any) -> float:
    """Return the largest difference of probability and grid; infinite where the classes differ."""
    best = [answer["predictions"][0] for answer in (here, there)]
    grids = [np.array(answer["explanations"][0]["grid"]) for answer in (here, there)]
    far = max(abs(best[0]["probability"] - best[1]["probability"]), float(np.abs(grids[0] - grids[1]).max()))
    print(
        f"{name}: here {best[0]['label']} {best[0]['probability']}, stock {best[1]['label']} {best[1]['probability']}"
    )
    print(f"largest difference of probability and grid: {far:.1e} (tolerance {TOLERANCE})")
    return far if best[0]["index"] == best[1]["index"] else float("inf")


if __name__ == "__main__":
    sys.exit(main())
