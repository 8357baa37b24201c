"""An archive of TorchServe's image_classifier, and the one that explains, side by side on one server."""

import pytest
import requests

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def pair(adopted, serve):
    """A server of the archive that torch-model-archiver packed, and of what camserve made of it."""
    with serve(*adopted) as server:
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
