"""What a server needs beside the archive is said when it is built, and read from it later."""

import re
import zipfile

import pytest
import timm
import torchvision
from torch import nn

from camserve.build.mar.needs import describe_needs
from camserve.build.mar.stock import _standard_library, imported_packages
from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from camserve.settings import ModelSpec, Settings
from camserve.values import Layer


def tiny():
    return timm.create_model("test_resnet", num_classes=3)


def test_packages_that_the_stock_image_lacks_are_named_with_their_versions():
    (line,) = describe_needs(tiny(), ModelSpec("timm:create_model"), ())
    assert line.startswith(f"the server needs timm {timm.__version__}, which TorchServe's stock image lacks")
    assert "--bundle" in line
    assert "--export" in line


def test_what_the_stock_image_has_or_the_archive_carries_is_not_named():
    stock = torchvision.models.squeezenet1_1(num_classes=3)
    assert describe_needs(stock, ModelSpec("torchvision.models:squeezenet1_1"), ()) == []
    carried = type("Net", (nn.Linear,), {"__module__": "camserve_model"})(2, 2)
    beside = type("Net", (nn.Linear,), {"__module__": "blocks.head"})(2, 2)
    spec = ModelSpec("Net", file="net.py", modules=("blocks",))
    assert describe_needs(nn.Sequential(carried, beside), spec, ()) == []
    assert describe_needs(beside, ModelSpec("blocks:net"), ()) != []


def test_what_a_bundled_package_itself_needs_is_named():
    (line,) = describe_needs(tiny(), ModelSpec("timm:create_model"), ("timm",))
    assert re.fullmatch(r"bundle: timm itself needs huggingface_hub, safetensors: install or bundle these too", line)
    both = ("timm", "huggingface_hub", "safetensors")
    assert not [line for line in describe_needs(tiny(), ModelSpec("timm:create_model"), both) if "timm" in line]


FILES = {
    "net.py": "from __future__ import annotations\nimport os, einops.layers\nfrom timm.models import vit\n"
    "import blocks\n"
    "PATTERN = '\\d'\n"
    "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None\n"
    "def later():\n    import rich\n",
    "blocks/__init__.py": "from . import head\nfrom .head import a\nimport torch, yaml\n",
    "blocks/head.py": "this is no Python",
    "blocks/deep.py": "x = " + "(" * 1000,
    "camserve/cli.py": "import nothing_of_ours",
    "gradcam_handler.py": "import camserve",
    "notes.txt": "import text",
}


def packages(path, **settings):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    spec = settings.pop("model", ModelSpec("Net", file="net.py"))
    return imported_packages(path, Settings(spec, layers=(Layer("x"),), **{"input": InputSpec(), **settings}))


def test_what_the_code_in_an_archive_imports_is_found_without_running_it(tmp_path):
    path = tmp_path / "a.mar"
    assert packages(path) == ["einops", "timm"]
    assert packages(path, model=ModelSpec("mmpretrain.apis:get_model")) == ["einops", "mmpretrain", "timm"]
    assert packages(path, model=ModelSpec("blocks:net"), score="lavis.ask:it") == ["einops", "lavis", "timm"]


def test_a_python_that_does_not_list_its_library_finds_it():
    found = _standard_library()
    assert {"os", "json", "sys", "_json", "asyncio", "zipfile"} <= found
    assert not found & {"torch", "numpy", "pytest"}


def test_more_code_than_is_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("camserve.build.mar.stock.MOST_CODE", 100)
    with pytest.raises(ConfigError, match=r"a\.mar holds \d+ bytes of Python code, and 100 are read"):
        packages(tmp_path / "a.mar")
