"""Real TorchServes, started once for the whole run."""

from pathlib import Path

import pytest
import requests
import torch

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.operate.ports import free_ports
from camserve.operate.server import Server

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def server(imagenet, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "for the server, not for its workers")
        with Server([imagenet], tmp_path_factory.mktemp("server"), free_ports(18080)) as running:
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
def faulty_archive(tmp_path_factory):
    """The archive of a network that fails on pictures of certain colours."""
    import faulty_network

    folder = tmp_path_factory.mktemp("faulty")
    torch.manual_seed(5)
    torch.save(faulty_network.Net().state_dict(), folder / "net.pt")
    (folder / "labels.txt").write_text("cat\ndog\nbird\n")
    (folder / "faulty.yaml").write_text(
        f"name: faulty\nfactory: Net\nmodel_file: {HERE / 'faulty_network.py'}\nweights: net.pt\nlabels: labels.txt\n"
        "preprocess: {resize: 64, crop: 64, mean: [0, 0, 0], std: [1, 1, 1]}\nlayer: features\n"
        "methods: [gradcam, layercam]\n"
        "serving: {responseTimeout: 10, batchSize: 8, maxBatchDelay: 200, minWorkers: 1, maxWorkers: 1}\n"
    )
    return build_archive(load_recipe(folder / "faulty.yaml"), folder / "store", lambda line: None)


@pytest.fixture(scope="session")
def unsafe(faulty_archive, tmp_path_factory):
    """A server of the faulty network without tokens and with the model API."""
    folder = tmp_path_factory.mktemp("unsafe")
    asked = {"disable_token_authorization": "true", "enable_model_api": "true"}
    with Server([faulty_archive], folder, free_ports(18280), **asked) as running:
        yield running
