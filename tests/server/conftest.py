"""Real TorchServes on ports of their own, each started once for all its tests."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
import torch
from supervised import supervised

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.operate.ports import PORTS_NEEDED, free_ports
from camserve.operate.server import Server

HERE = Path(__file__).parent
FIRST_PORT, PORTS_EACH = 18_000, 200  # of a process of the run
PETS = ("cup", "cat", "dog", "bird", "car", "tree", "house")
PETS_NETWORK = """
from torchvision.models.squeezenet import SqueezeNet


class Net(SqueezeNet):
    def __init__(self):
        super().__init__("1_1", num_classes=7)
"""


@pytest.fixture(scope="session")
def next_ports():
    """Find free neighbouring ports that no other process of the run takes."""
    first = FIRST_PORT + PORTS_EACH * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])

    def next_ports():
        nonlocal first
        found = free_ports(first)
        first = found + PORTS_NEEDED
        return found

    return next_ports


@pytest.fixture(scope="session")
def serve(tmp_path_factory, next_ports):
    """Serve archives while a block runs."""

    @contextmanager
    def serve(*archives, **properties):
        with Server(archives, tmp_path_factory.mktemp("server"), next_ports(), **properties) as server:
            yield server

    return serve


@pytest.fixture(scope="session")
def server(imagenet, serve):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "for the server, not for its workers")
        with serve(imagenet) as running:
            yield running


@pytest.fixture(scope="session")
def post(server):
    """Post to a path of the inference side with its token."""
    session = requests.Session()

    def post(path, headers=None, **body):
        side = server.inference
        return session.post(f"{side.url}{path}", headers={**side.headers, **(headers or {})}, timeout=60, **body)

    yield post
    session.close()


@pytest.fixture(scope="session")
def adopted(build_once):
    """Return an archive of image_classifier, "old", and what camserve makes of it, "pets", in one folder."""
    import torchvision

    from camserve.cli import main

    def build(folder):
        torch.manual_seed(2)
        network = torchvision.models.squeezenet1_1(num_classes=len(PETS))
        with torch.no_grad():
            network.classifier[1].weight *= 20
        torch.save(network.state_dict(), folder / "net.pt")
        (folder / "net.py").write_text(PETS_NETWORK)
        names = {str(index): name for index, name in enumerate(PETS)}
        (folder / "index_to_name.json").write_text(json.dumps(names))
        archiver = Path(sys.executable).parent / "torch-model-archiver"
        command = [archiver, "--model-name", "pets", "--version", "2.5", "--handler", "image_classifier"]
        command += ["--model-file", "net.py", "--serialized-file", "net.pt", "--extra-files", "index_to_name.json"]
        subprocess.run([*map(str, command), "--export-path", "."], cwd=folder, check=True, capture_output=True)
        (folder / "pets.mar").rename(folder / "old.mar")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(["archive", "old.mar", "--keep-answers", "--out", "new"]) == 0
        shutil.move(str(folder / "new" / "pets.mar"), folder / "pets.mar")
        return folder

    folder = build_once("adopted", build)
    return folder / "old.mar", folder / "pets.mar"


@pytest.fixture(scope="session")
def faulty_archive(build_once):
    """The archive of a network that fails on pictures of certain colours."""
    import faulty_network

    def build(folder):
        torch.manual_seed(5)
        torch.save(faulty_network.Net().state_dict(), folder / "net.pt")
        (folder / "labels.txt").write_text("cat\ndog\nbird\n")
        (folder / "faulty.yaml").write_text(
            f"name: faulty\nfactory: Net\nmodel_file: {HERE / 'faulty_network.py'}\nweights: net.pt\n"
            "labels: labels.txt\npreprocess: {resize: 64, crop: 64, mean: [0, 0, 0], std: [1, 1, 1]}\n"
            "layer: features\nmethods: [gradcam, layercam]\n"
            "serving: {responseTimeout: 6, batchSize: 8, maxBatchDelay: 200, minWorkers: 1, maxWorkers: 1}\n"
        )
        return build_archive(load_recipe(folder / "faulty.yaml"), folder / "store", lambda line: None)

    return build_once("faulty", build)


@pytest.fixture(scope="session")
def open_folder():
    """Make folders that nginx's workers reach, who are another user where root runs the tests."""
    with ExitStack() as stack:

        def open_folder():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="camserve-test-")))
            folder.chmod(0o711)
            return folder

        yield open_folder


@pytest.fixture(scope="session")
def supervise(next_ports):
    """Run ``camserve serve`` as a process of its own while a block runs."""
    return lambda folder, *arguments, **options: supervised(next_ports(), folder, *arguments, **options)


@pytest.fixture(scope="session")
def unsafe(faulty_archive, serve):
    """A server of the faulty network without tokens and with the model API."""
    with serve(faulty_archive, disable_token_authorization="true", enable_model_api="true") as running:
        yield running
