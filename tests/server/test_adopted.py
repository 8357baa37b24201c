"""An archive of TorchServe's image_classifier, and the one that explains, side by side on one server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import torch
import torchvision

from camserve.cli import main

pytestmark = pytest.mark.server

NET = """
from torchvision.models.squeezenet import SqueezeNet


class Net(SqueezeNet):
    def __init__(self):
        super().__init__("1_1", num_classes=7)
"""
NAMES = ("cup", "cat", "dog", "bird", "car", "tree", "house")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, serve):
    """A server of the archive that torch-model-archiver packed, and of what camserve made of it."""
    folder = tmp_path_factory.mktemp("adopted")
    torch.manual_seed(2)
    network = torchvision.models.squeezenet1_1(num_classes=len(NAMES))
    with torch.no_grad():
        network.classifier[1].weight *= 20
    torch.save(network.state_dict(), folder / "net.pt")
    (folder / "net.py").write_text(NET)
    (folder / "index_to_name.json").write_text(json.dumps({str(index): name for index, name in enumerate(NAMES)}))
    archiver = Path(sys.executable).parent / "torch-model-archiver"
    command = [archiver, "--model-name", "pets", "--version", "2.5", "--handler", "image_classifier"]
    command += ["--model-file", "net.py", "--serialized-file", "net.pt", "--extra-files", "index_to_name.json"]
    subprocess.run([*map(str, command), "--export-path", "."], cwd=folder, check=True, capture_output=True)
    (folder / "pets.mar").rename(folder / "old.mar")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["archive", "old.mar", "--keep-answers", "--out", "new"]) == 0
    shutil.move(str(folder / "new" / "pets.mar"), folder / "pets.mar")
    with serve(folder / "old.mar", folder / "pets.mar") as server:
        yield server


def ask(server, name, photo, **options):
    side = server.inference
    files = {"data": photo, **options}
    return requests.post(f"{side.url}/predictions/{name}", headers=side.headers, files=files, timeout=60).json()


def test_an_old_client_gets_the_answer_that_it_got(pair, coffee, chelsea):
    for photo in (coffee, chelsea):
        old, new = (ask(pair, name, photo) for name in ("old", "pets"))
        assert list(old) == list(new)
        assert list(new.values()) == pytest.approx(list(old.values()), abs=1e-4)


def test_a_new_client_gets_the_explanation(pair, coffee):
    answer = ask(pair, "pets", coffee, explain="true", target="cat")
    assert answer["model"]["name"] == "pets"
    assert answer["model"]["version"] == "2.5"
    assert answer["explanations"][0]["target"]["label"] == "cat"
    assert answer["explanations"][0]["grid"]
