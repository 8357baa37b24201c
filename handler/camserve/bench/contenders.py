"""The archives that are compared: one model, one state dict, three handlers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from camserve.bench.networks import SIDE, build_classifier, photo_shape, separate_photos, settle_statistics
from camserve.build.archive import build_archive
from camserve.build.probe import find_layer
from camserve.build.recipe import QuantiseChoice, Recipe
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.settings import RuntimeSpec
from camserve.values import Progress

CAMSERVE, STOCK, NAIVE = "camserve", "stock", "naive"  # archives, and models of the servers
CAMSERVE_BF16 = "camserve-bf16"
CAMSERVE_OPENVINO, CAMSERVE_OPENVINO_BF16 = "camserve-openvino", "camserve-openvino-bf16"
CAMSERVE_INT8 = "camserve-int8"
RUNTIMES = {
    CAMSERVE: RuntimeSpec(),
    CAMSERVE_OPENVINO: RuntimeSpec(mode="openvino"),
    CAMSERVE_BF16: RuntimeSpec(precision="bf16"),
    CAMSERVE_OPENVINO_BF16: RuntimeSpec(mode="openvino", precision="bf16"),
    CAMSERVE_INT8: RuntimeSpec(mode="openvino", precision="int8"),
}
ANY_CHANGE = QuantiseChoice(top1_agreement=0.0, map_correlation=-1.0)  # of a network that was never trained

MODEL_FILE = """\
import torch
import torchvision


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = torchvision.models.get_model({model!r})

    def forward(self, pixels):
        return self.network(pixels)
"""

# A handler as the documentation of the two projects suggests: predict the batch, then explain its rows.
NAIVE_HANDLER = """\
import base64
import io

from PIL import Image
from pytorch_grad_cam import GradCAM
from ts.torch_handler.image_classifier import ImageClassifier


class ExplainingClassifier(ImageClassifier):
    def initialize(self, context):
        super().initialize(context)
        layer = self.model.get_submodule({layer!r})
        self.cam = GradCAM(model=self.model, target_layers=[layer])

    def inference(self, pixels):
        self.pixels = pixels
        return super().inference(pixels)

    def postprocess(self, scores):
        answers = super().postprocess(scores)
        maps = [self.cam(input_tensor=row[None], targets=None)[0] for row in self.pixels]
        return [{{"classes": answer, "map": png(heatmap)}} for answer, heatmap in zip(answers, maps)]


def png(values):
    buffer = io.BytesIO()
    Image.fromarray((values * 255).astype("uint8")).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
"""


@dataclass(frozen=True)
class Parts:
    """The model, the folder and the settings that the archives are built from."""

    model: str  # torchvision's name
    folder: Path
    serving: dict[str, Any]  # TorchServe's own settings, the same for all

    @property
    def model_file(self) -> Path:
        """The class that TorchServe calls without arguments."""
        return self.folder / "network.py"

    @property
    def weights(self) -> Path:
        """The state dict."""
        return self.folder / "network.pt"


def build_archives(parts: Parts, report: Progress) -> dict[str, Path]:
    """Write the archives, by name; one that cannot be converted here is left out. ConfigError: a builder failed."""
    network = _write_parts(parts)
    layer = f"network.{find_layer(ScoringNetwork(network).eval(), photo_shape(SIDE)).name}"
    handler = parts.folder / "naive_handler.py"
    handler.write_text(NAIVE_HANDLER.format(layer=layer), encoding="utf-8")
    archives = {STOCK: pack_stock(STOCK, "image_classifier", parts), NAIVE: pack_stock(NAIVE, str(handler), parts)}
    for name, runtime in RUNTIMES.items():
        try:
            archives[name] = _build_camserve(name, parts, runtime)
        except ConfigError as error:
            if runtime.mode == "eager":
                raise
            report(f"{name} is left out: {error}")
    return archives


def _write_parts(parts: Parts) -> nn.Module:
    """Write the model file and the weights, and return the network."""
    parts.folder.mkdir(parents=True, exist_ok=True)
    parts.model_file.write_text(MODEL_FILE.format(model=parts.model), encoding="utf-8")
    network = separate_photos(settle_statistics(build_classifier(parts.model)))
    torch.save({f"network.{name}": value for name, value in network.state_dict().items()}, parts.weights)
    return network


def _build_camserve(name: str, parts: Parts, runtime: RuntimeSpec) -> Path:
    recipe = Recipe(
        name,
        str(parts.weights),
        factory="Network",
        model_file=str(parts.model_file),
        preprocess="imagenet",
        methods=("gradcam",),
        serving=parts.serving,
        runtime=runtime,
        quantise=ANY_CHANGE if runtime.precision == "int8" else QuantiseChoice(),
    )
    return build_archive(recipe, parts.folder, lambda _: None)


def pack_stock(name: str, handler: str, parts: Parts) -> Path:
    """Build an archive for one of TorchServe's own handlers, or a handler file. ConfigError: the archiver failed."""
    config = parts.folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(parts.serving), encoding="utf-8")
    names = parts.folder / "index_to_name.json"
    # The name of a class is its index: equal names would overwrite one another.
    names.write_text(json.dumps({str(index): str(index) for index in range(1000)}), encoding="utf-8")
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", "1.0"]
    command += ["--model-file", str(parts.model_file), "--serialized-file", str(parts.weights)]
    command += ["--handler", handler, "--extra-files", str(names), "--config-file", str(config)]
    command += ["--export-path", str(parts.folder), "--force"]
    environment = {**os.environ, "TMPDIR": str(parts.folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    archive = parts.folder / f"{name}.mar"
    if done.returncode or not archive.is_file():
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ConfigError(f"torch-model-archiver failed: {''.join(reason)}")
    return archive
