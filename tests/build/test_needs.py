"""What a server needs beside the archive is said when it is built."""

import re

import timm
import torchvision
from torch import nn

from camserve.build.needs import describe_needs
from camserve.settings import ModelSpec


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
