"""Real photos, a real archive, and small networks whose answers are known."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from camserve.build.recipe import load_recipe
from camserve.build.sources import find_file

RECIPE = Path(__file__).parents[1] / "config" / "models" / "imagenet.yaml"


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def coffee():
    return find_file("package://skimage/data/coffee.png").read_bytes()


@pytest.fixture(scope="session")
def chelsea():
    return find_file("package://skimage/data/chelsea.png").read_bytes()


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """The shipped archive, built once for the whole run."""
    from camserve.build.archive import build_archive

    return build_archive(load_recipe(RECIPE), tmp_path_factory.mktemp("store"), lambda line: None)


@pytest.fixture
def encoded():
    """Encode a plain picture of a given size, mode and format."""

    def encode(width, height, mode="RGB", kind="PNG", color=None, **options):
        buffer = BytesIO()
        Image.new(mode, (width, height), color or 0).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode
