"""A real TorchServe, started once for the whole run."""

import pytest
import requests

from camserve.server import Server, free_ports


@pytest.fixture(scope="session")
def server(imagenet, tmp_path_factory):
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
