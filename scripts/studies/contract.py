"""Build archives of networks as people write them, and write down what camserve says of each.

The table of docs/contract.md is made by this; run it from a clone: scripts/studies/contract
"""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import load_recipe
from camserve.errors import CamserveError
from camserve.values import RawRequest

TABLE = Path(__file__).parents[2] / "docs" / "contract.md"
PHOTO = "package://skimage/data/coffee.png"
NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        )
        self.fc = nn.Linear(32, classes)
        with torch.no_grad():
            self.fc.weight *= 20

    def forward(self, x):
        return self.fc(self.features(x).mean([2, 3]))


"""
INTRODUCTION = """# What is checked of a network

`camserve archive` runs a network before it writes anything, on random pictures and on the samples. It finds which
output holds the scores and what stands after them, whether a picture's scores depend on chance or on the pictures
beside it, where the target layer's positions lie, and how much of what makes scores differ passes that layer. The
gradient there is compared with finite differences, on a CPU and for a single picture. What the command takes for
granted is printed; what cannot be told is asked for.

Each row is a network that was built and asked: `scripts/studies/contract` writes this table.

| network | recipe | answer |
|---|---|---|
"""


@dataclass(frozen=True)
class Case:
    """One way to write a network."""

    what: str
    code: str  # of the class T, or of a function make
    recipe: Mapping[str, Any] = field(default_factory=dict)


def forward(code: str, classes: int = 4) -> str:
    """Return a network whose forward method is this code."""
    body = textwrap.indent(code, " " * 8)
    return f"class T(Net):\n    def forward(self, x):\n{body}\n\n\ndef make():\n    return T({classes})\n"


SCORES = "scores = super().forward(x)\n"
PARTS = "f = self.features(x).mean([2, 3])\nz = self.fc(f)\n"
FOLDED = "h = self.features(x)\nreturn self.fc(h.permute(0, 2, 3, 1).reshape(-1, 32))"
NO_GRAD = "with torch.no_grad():\n    h = self.features(x)\nreturn self.fc(h.mean([2, 3]))"
WITHOUT_STATISTICS = """
def make():
    net = Net()
    net.features[1] = nn.BatchNorm2d(16, track_running_stats=False)
    return net
"""
SPECTRAL_NORM = """
def make():
    net = Net()
    net.features[0] = nn.utils.parametrizations.spectral_norm(net.features[0])
    return net
"""
ENSEMBLE = """
class E(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Net(), Net()

    def forward(self, x):
        return RESULT


def make():
    return E()
"""
VIEW = """
class V(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)
        self.fc = nn.Linear(256, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().view(x.size(0), -1))


def make():
    return V()
"""
TOKENS = """
class T(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8)
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        self.mix, self.fc = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.norm(F.gelu(self.stem(x))).flatten(2).transpose(1, 2)
        return 9 * self.fc(F.gelu(self.mix(torch.cat([self.first.expand(len(x), 1, 8), tokens], 1))).mean(1))


def make():
    return T()
"""
CASES = (
    Case("ends in softmax", forward(SCORES + "return F.softmax(scores, 1)")),
    Case("ends in log-softmax", forward(SCORES + "return F.log_softmax(scores, 1)")),
    Case("ends in sigmoids", forward(SCORES + "return scores.sigmoid()")),
    Case("ends in sigmoids", forward(SCORES + "return scores.sigmoid()"), {"task": "multilabel"}),
    Case("ends in one sigmoid", forward(SCORES + "return scores.sigmoid()", 1), {"task": "binary"}),
    Case("one output", forward("return super().forward(x)", 1)),
    Case("`.squeeze()`", forward("return super().forward(x).squeeze()")),
    Case("one output and `.squeeze()`", forward("return super().forward(x).squeeze()", 1), {"task": "binary"}),
    Case("positions folded into the batch", forward(FOLDED)),
    Case("batch normalisation without statistics", WITHOUT_STATISTICS),
    Case("`F.dropout` at inference", forward("return self.fc(F.dropout(self.features(x).mean([2, 3])))")),
    Case("returns (embedding, scores)", forward(PARTS + "return f, z")),
    Case("returns (embedding, scores)", forward(PARTS + "return f, z"), {"output": {"select": "1"}}),
    Case("returns (embedding, scores)", forward(PARTS + "return f, z"), {"labels": "labels.txt"}),
    Case("a mapping with `logits`", forward(PARTS + "return {'features': f, 'logits': z}")),
    Case("a mapping without `logits`", forward(PARTS + "return {'features': f, 'out': z}")),
    Case("a body without a head", forward("return self.features(x)")),
    Case("ensemble, the first weighs ten times more", ENSEMBLE.replace("RESULT", "(10 * self.a(x) + self.b(x)) / 11")),
    Case("averaged softmaxes", ENSEMBLE.replace("RESULT", "(self.a(x).softmax(1) + self.b(x).softmax(1)) / 2")),
    Case("flips its input", forward("return super().forward(x.flip(3))")),
    Case("flipped and upright, averaged", forward("return (super().forward(x) + super().forward(x.flip(3))) / 2")),
    Case("crops its input", forward("return super().forward(x[:, :, 8:-8, 8:-8])")),
    Case("`view` behind a convolution", VIEW),
    Case("spectral norm before batch normalisation", SPECTRAL_NORM),
    Case("trunk under `no_grad`", forward(NO_GRAD)),
    Case("all under `inference_mode`", forward("with torch.inference_mode():\n    return super().forward(x)")),
    Case("trunk detached", forward("return self.fc(self.features(x).detach().mean([2, 3]))")),
    Case(
        "part of the features detached",
        forward("h = self.features(x)\nreturn self.fc((h + 9 * h.detach()).mean([2, 3]))"),
    ),
    Case(
        "batch normalisation before tokens",
        TOKENS,
        {"layer": "stem", "runtime": {"fast": False, "channels_last": False}},
    ),
    Case("several true labels", forward("return super().forward(x) + 5"), {"task": "multilabel"}),
    Case("two targets by default", forward("return super().forward(x)"), {"defaults": {"target": "top:2"}}),
    Case("`torch.compile` in the factory", "def make():\n    return torch.compile(Net())\n"),
    Case("half of a network", "def make():\n    return Net().half()\n"),
)


def main() -> int:
    """Run every case and write the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="camserve-contract-") as folder:
        lines = [try_out(case, Path(folder) / str(number)) for number, case in enumerate(CASES)]
    TABLE.write_text(INTRODUCTION + "".join(lines), encoding="utf-8")
    print("".join(lines))
    return 0


def try_out(case: Case, folder: Path) -> str:
    """Return the case's row of the table."""
    folder.mkdir()
    (folder / "net.py").write_text(NETWORK + case.code, encoding="utf-8")
    scope: dict[str, Any] = {"__name__": "net"}
    exec(NETWORK + case.code, scope)
    torch.manual_seed(0)
    network = scope["make"]().eval()
    torch.save(network.state_dict(), folder / "net.pt")
    (folder / "labels.txt").write_text("cup\ncat\ndog\nbird\n", encoding="utf-8")
    block = {
        "name": "net",
        "factory": "make",
        "model_file": "net.py",
        "weights": "net.pt",
        "preprocess": {"resize": 64, "crop": 64},
        "samples": [PHOTO],
        **case.recipe,
    }
    (folder / "net.yaml").write_text(yaml.safe_dump(block), encoding="utf-8")
    recipe = ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in case.recipe.items())
    return f"| {case.what} | {recipe} | {_answer(folder)} |\n".replace("\n ", " ")


def _answer(folder: Path) -> str:
    printed: list[str] = []
    try:
        archive = build_archive(load_recipe(folder / "net.yaml"), folder, printed.append, fresh_process=False)
    except CamserveError as error:
        return f"refused: {error}"
    with open_archive(archive) as pipeline:
        (response,) = pipeline.answer([RawRequest(find_file(PHOTO).read_bytes(), {"explain": True})])
    answer = json.loads(response.body)
    shown = [
        line
        for line in printed
        if line.startswith(("output:", "runtime", "target", "maps", "no gradient", "the scores"))
    ]
    best = answer["predictions"][0]
    shown.append(f"class {best['index']}: probability {best['probability']:.3f}, score {best['score']:.2f}")
    shown += [f"**{warning['code']}**: {warning['message']}" for warning in answer["warnings"]]
    return "; ".join(shown).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
