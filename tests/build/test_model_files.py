"""A model file travels with the modules beside it that it imports, and with nothing else."""

import json
import sys
import zipfile

import pytest
import torch

from camserve.build.archive import build_archive
from camserve.build.local_modules import local_modules
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import Recipe
from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from camserve.network.factory import build_network
from camserve.settings import ModelSpec
from camserve.values import RawRequest
from model_file import quiet

NET = """
from torch import nn
import blocks
import parts.head as heads
try:
    import not_here
except ImportError:
    pass

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(blocks.block(3, 8), blocks.block(8, 8))
        self.head = heads.Head(8)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))
"""
FILES = {
    "net.py": NET,
    "blocks.py": "from torch import nn\nfrom widths import STRIDE\n"
    "def block(a, b): return nn.Sequential(nn.Conv2d(a, b, 3, STRIDE), nn.ReLU())\n",
    "widths.py": "import json\nSTRIDE = 2\n",
    "parts/__init__.py": "",
    "parts/head.py": "from torch import nn\nfrom .sizes import CLASSES\n"
    "class Head(nn.Linear):\n    def __init__(self, width): super().__init__(width, CLASSES)\n",
    "parts/sizes.py": "CLASSES = 3\n",
    "parts/large.bin": "not code",
    "json.py": "raise SystemExit('this is not the json of the standard library')\n",
    "train.py": "import blocks\n",
}


def write(folder, files=FILES):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "net.py"


@pytest.fixture(autouse=True)
def same_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("blocks", "widths", "parts", "parts.head", "parts.sizes"):
        sys.modules.pop(name, None)


def state(stride):
    torch.manual_seed(stride)
    names = {"body.0.0": (8, 3, 3, 3), "body.1.0": (8, 8, 3, 3), "head": (3, 8)}
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in names.items()}
    return {**weights, **{f"{name}.bias": torch.zeros(shape[0]) for name, shape in names.items()}}


def test_the_modules_beside_a_model_file_travel_and_load(tmp_path, chelsea):
    torch.save(state(2), tmp_path / "w.pt")
    recipe = Recipe(
        "net",
        str(tmp_path / "w.pt"),
        "Net",
        model_file=str(write(tmp_path / "code")),
        bundle=("blocks",),
        preprocess=InputSpec(resize=64, crop=64),
    )
    archive = build_archive(recipe, tmp_path, quiet, fresh_process=False)
    with zipfile.ZipFile(archive) as packed:
        own = {name for name in packed.namelist() if not name.startswith(("camserve/", "MAR-INF/"))}
    assert own == {
        *("net.py", "blocks.py", "widths.py", "parts/__init__.py", "parts/head.py", "parts/sizes.py"),
        *("gradcam_handler.py", "labels.txt", "model-config.yaml", "samples/pattern.png"),
        *("seal.json", "selftest.json", "weights.safetensors"),
    }
    with open_archive(archive) as pipeline:
        answer = json.loads(pipeline.answer([RawRequest(chelsea)])[0].body)
    assert len(answer["explanations"][0]["grid"]) == 15


def test_two_archives_in_one_process_keep_their_own_modules(tmp_path):
    for stride in (2, 3):
        write(tmp_path / str(stride), {**FILES, "widths.py": f"STRIDE = {stride}\n"})
    spec = ModelSpec("Net", file="net.py", modules=("blocks", "widths", "parts"))
    networks = {stride: build_network(spec, tmp_path / str(stride)) for stride in (2, 3)}
    assert {stride: network.body[0][0].stride[0] for stride, network in networks.items()} == {2: 2, 3: 3}


def test_only_what_is_imported_and_lies_beside_the_file_is_found(tmp_path):
    assert set(local_modules(write(tmp_path))) == {"blocks", "widths", "parts"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"net.py": "from .blocks import block\n"}, r"--factory {name}\.net:NAME --bundle {name}"),
        ({"net.py": "import blocks\n", "blocks.py": "def (\n"}, r"blocks\.py is not Python: invalid syntax"),
    ],
)
def test_a_file_that_cannot_travel_is_refused_in_one_line(tmp_path, files, message):
    with pytest.raises(ConfigError, match=message.format(name=tmp_path.name)):
        local_modules(write(tmp_path, files))
