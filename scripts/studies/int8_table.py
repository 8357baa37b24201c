"""Make the table of docs/performance.md that holds fp32, bf16 and int8 against each other on labelled photos.

    CAMSERVE_DATA=... OMP_NUM_THREADS=1 .venv/bin/python scripts/studies/int8_table.py RECIPE.yaml ...

Every second photo of imagenet-val-500 calibrates, as ``quantise.photos`` does; times are of the trunk alone, batch 8,
medians in seconds of the processor.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camserve.build.archive import build_archive
from camserve.build.mar.file import extract_all
from camserve.build.mar.unpack import read_contents
from camserve.build.recipe import QuantiseChoice, load_recipe
from camserve.build.runtime.quantise import BATCH, Observed, QuantisePhotos, correlate_maps, observe, quantise
from camserve.cli.terminal import say
from camserve.errors import CamserveError, ConfigError
from camserve.fast.compiled import Trunk
from camserve.fast.prepare import write_compiled
from camserve.fast.split import Split
from camserve.intake.accept import read_pixels
from camserve.intake.preprocess import normalise
from camserve.measures import Quantised
from camserve.network.load import load_network
from camserve.settings import RuntimeSpec, Settings
from labelled_photos import Photos, data_folder, read_photos

PASSES = 20
CPU = torch.device("cpu")
HEAD = "| network | runs in | ms | accuracy, 500 | accuracy, 250 | best class stays | maps correlate (5 % quantile) |"


@dataclass(frozen=True)
class Network:
    """A network cut in two, and its photos (P, C, H, W), of which every second calibrates."""

    name: str
    settings: Settings
    pixels: Tensor
    classes: Tensor


def report(line: str) -> None:
    """Print a step beside the table."""
    print(line, file=sys.stderr)


def read_pictures(settings: Settings, photos: Photos) -> Tensor:
    """Return photos as the network sees them, (P, C, H, W)."""
    pictures = [read_pixels(path.read_bytes(), settings.input, settings.limits, None) for path in photos.paths]
    return torch.cat([normalise([picture], settings.input, CPU) for picture in pictures])


def milliseconds(trunk: Trunk, pixels: Tensor) -> float:
    """Return what a batch takes, its median, after two that are not counted."""
    took = []
    for _ in range(PASSES + 2):
        began = time.process_time()
        trunk(pixels)
        took.append(time.process_time() - began)
    return 1000 * statistics.median(took[2:])


def print_row(network: Network, halved: Split, expected: Observed, word: str, trunk: Trunk) -> None:
    """Print what one form of the trunk gives."""
    layer, pixels = network.settings.layers[0], network.pixels
    found = observe(Split(halved.whole, trunk, halved.tail, layer), layer, list(pixels), expected.best)
    right, same = found.best == network.classes, (found.best == expected.best)[1::2].float().mean()
    alike = correlate_maps(found.maps[1::2], expected.maps[1::2])
    print(
        f"| {network.name} | {word} | {milliseconds(trunk, pixels[:BATCH]):.1f} | {right.float().mean():.3f} | "
        f"{right[1::2].float().mean():.3f} | {same:.3f} | {alike.median():.4f} ({alike.quantile(0.05):.4f}) |",
        flush=True,
    )


def compare(network: Network, model: Any, halved: Split) -> tuple[Any, Quantised]:
    """Print the rows of one network, and return what ``write_compiled`` asks for."""
    layer = network.settings.layers[0]
    expected = observe(halved.whole, layer, list(network.pixels))
    for precision in ("fp32", "bf16"):
        print_row(network, halved, expected, precision, Trunk(model, precision))
    shown = QuantisePhotos(list(network.pixels[::2]), list(network.pixels[1::2]))
    for choice in (QuantiseChoice(top1_agreement=0.0, map_correlation=-1.0), QuantiseChoice()):
        int8, made = quantise(model, halved, layer, shown, choice, report)
        word = f"int8, {made.kept} kept" if made.kept else "int8"
        print_row(network, halved, expected, word, Trunk(int8, "int8"))
    return int8, made


def study(path: Path, photos: Photos) -> None:
    """Print the rows of a recipe's network."""
    recipe = replace(load_recipe(path), methods=("gradcam",), expect={})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "content"
        archive = build_archive(recipe, Path(name), report, fresh_process=False)
        extract_all(archive, folder)
        settings = replace(read_contents(archive).settings, runtime=RuntimeSpec("openvino", precision="int8"))
        network = Network(recipe.name, settings, read_pictures(settings, photos), torch.tensor(photos.classes))
        whole = load_network(folder, settings, CPU)
        try:
            write_compiled(whole, settings, folder, lambda model, halved: compare(network, model, halved))
        except ConfigError as error:
            report(str(error))  # it misses the usual limits


def main() -> int:
    """Print the table of the recipes that the command line names."""
    try:
        photos = read_photos(data_folder() / "imagenet-val-500")
        print(HEAD, "|---" * 7 + "|", sep="\n")
        for path in sys.argv[1:]:
            study(Path(path), photos)
    except CamserveError as error:
        say(f"camserve: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
