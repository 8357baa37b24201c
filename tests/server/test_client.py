"""The client against real servers: with tokens and without, behind the front, busy, not there yet."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO

import httpx
import numpy as np
import pytest
import requests
from nginx_needed import needs_nginx, started
from PIL import Image

from camserve import AsyncClient, Client, errors
from camserve.client.protocol import Retry
from camserve.operate.front import SERVER_PROPERTIES, Front
from camserve.operate.server import Server

pytestmark = pytest.mark.server

NEAR = 3  # of 255, one level of a palette: the grid in an answer has four decimals


@pytest.fixture(scope="module")
def client(server):
    with Client(server.inference.url, "imagenet", token=server.inference.token) as client:
        yield client


def scale(server, workers):
    params = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
    side = server.management
    assert requests.put(f"{side.url}/models/imagenet", headers=side.headers, params=params, timeout=120).ok


def test_a_photo_is_explained(client, coffee):
    answer = client.explain(coffee, target=["cup", 967], contrast="next", method=("gradcam", "hirescam"))
    assert answer.predictions[0].label == "espresso"
    assert {explanation.target.index for explanation in answer.explanations} == {968, 967}
    assert [explanation.method for explanation in answer.explanations] == ["gradcam", "gradcam", "hirescam", "hirescam"]
    assert answer.explanations[0].grid.shape == (7, 7)
    assert answer.explanations[0].contrast.label
    assert answer.model.name == "imagenet"
    runner_up = client.explain(coffee, contrast=answer.predictions[1]).explanations[0]
    assert runner_up.contrast.index == answer.predictions[1].index


def test_a_prediction_alone_and_the_model_description(client, coffee):
    assert client.predict(coffee, top_k=2).explanations == ()
    assert len(client.predict(coffee, top_k=2).predictions) == 2
    description = client.describe()
    assert description["model"]["name"] == "imagenet"
    assert description["labels"][967] == "espresso"


def test_every_kind_of_photo_gets_the_same_answer(client, coffee, tmp_path):
    (tmp_path / "coffee.png").write_bytes(coffee)
    picture = Image.open(BytesIO(coffee))
    kinds = [coffee, tmp_path / "coffee.png", str(tmp_path / "coffee.png"), picture, np.asarray(picture)]
    grids = [client.explain(kind).explanations[0].grid.tolist() for kind in kinds]
    assert all(grid == grids[0] for grid in grids)


@pytest.mark.parametrize(
    "options", [{}, {"evidence": "signed"}, {"target": "toilet tissue"}, {"palette": "viridis", "opacity": 0.3}]
)
def test_the_client_draws_what_the_server_draws(client, server, coffee, options):
    drawing = {name: value for name, value in options.items() if name in ("palette", "opacity")}
    headers = {**server.inference.headers, "Accept": "image/png"}
    address = f"{server.inference.url}/predictions/imagenet"
    served = requests.post(address, files={"data": coffee}, data=options, headers=headers, timeout=60)
    answer = client.explain(coffee, **options)
    drawn, expected = (
        np.asarray(image, int) for image in (answer.overlay(**drawing), Image.open(BytesIO(served.content)))
    )
    differences = np.abs(drawn - expected)
    assert differences.max() <= NEAR
    assert (differences > 0).mean() < 0.01
    assert (answer.explanations[0].shown < 1) == ("target" in options)


def test_a_refusal_is_an_error_of_its_code_and_is_not_repeated(client, coffee):
    with pytest.raises(errors.UnknownClass, match="did you mean") as caught:
        client.explain(coffee, target="expresso")
    assert (caught.value.status, caught.value.code) == (400, "unknown_class")
    assert caught.value.request_id
    with pytest.raises(errors.UnsupportedFormat):
        client.explain(b"no picture")
    with pytest.raises(errors.BadOption, match="'colour' is not one of"):
        client.explain(coffee, colour="red")


def test_a_wrong_model_and_a_wrong_token_are_refused_by_torchserve(server, coffee):
    side = server.inference
    with Client(side.url, "imagenett", token=side.token) as wrong, pytest.raises(errors.RequestError) as caught:
        wrong.explain(coffee)
    assert (caught.value.status, caught.value.code) == (404, "ModelNotFoundException")
    with Client(side.url, "imagenet", token="no") as wrong, pytest.raises(errors.RequestError) as caught:
        wrong.explain(coffee)
    assert (caught.value.status, caught.value.code) == (400, "InvalidKeyException")


def test_many_photos_are_answered_in_order_with_errors_in_their_places(client, coffee, chelsea):
    photos = [coffee, b"no picture", chelsea, "no/such.jpg", coffee, chelsea, coffee]
    answers = list(client.explain_many(iter(photos), concurrency=3, top_k=1))
    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == ["Answer", "UnsupportedFormat", "Answer", "ConfigError", "Answer", "Answer", "Answer"]
    labels = [answer.predictions[0].label for answer in answers if hasattr(answer, "predictions")]
    assert labels[0] == labels[2] == labels[4] == "espresso"
    assert labels[1] == labels[3] != "espresso"


def test_no_more_photos_are_taken_than_are_under_way(client, coffee):
    taken = []

    def photos():
        for number in range(100):
            taken.append(number)
            yield coffee

    stream = client.explain_many(photos(), concurrency=2, explain=False)
    for count in range(1, 4):
        next(stream)
        assert len(taken) == count + 1
    stream.close()
    assert len(taken) == 4


def test_one_photo_is_not_taken_for_many(client, coffee):
    for wrong in (coffee, "folder"):
        with pytest.raises(errors.ConfigError, match="takes photos, not one"):
            next(client.explain_many(wrong))
    with pytest.raises(errors.ConfigError, match="concurrency must be 1 or more"):
        next(client.explain_many([coffee], concurrency=0))


def test_the_async_client_does_the_same(server, client, coffee, chelsea):
    async def ask():
        async with AsyncClient(server.inference.url, "imagenet", token=server.inference.token) as asking:
            one = await asking.explain(coffee, target="cup")
            many = [answer async for answer in asking.explain_many([chelsea, b"x", coffee], concurrency=2)]
            return one, many, await asking.predict(coffee), await asking.describe()

    one, many, predicted, description = asyncio.run(ask())
    assert one.explanations == client.explain(coffee, target="cup").explanations
    assert [type(answer).__name__ for answer in many] == ["Answer", "UnsupportedFormat", "Answer"]
    assert many[2].predictions == predicted.predictions
    assert description["model"]["name"] == "imagenet"


def test_a_key_that_was_renewed_is_read_again(server, coffee):
    def token():
        calls.append(1)
        return json.loads((server.folder / "key_file.json").read_text())["inference"]["key"]

    async def ask():
        async with AsyncClient(server.inference.url, "imagenet", token=token) as asking:
            await asking.predict(coffee)
            renew()
            return await asyncio.gather(*(asking.predict(coffee) for _ in range(3)))

    def renew():
        api = json.loads((server.folder / "key_file.json").read_text())["API"]["key"]
        address = f"{server.management.url}/token?type=inference"
        assert requests.get(address, headers={"Authorization": f"Bearer {api}"}, timeout=60).ok

    calls = []
    with Client(server.inference.url, "imagenet", token=token) as renewing:
        renewing.predict(coffee)
        renewing.predict(coffee)
        assert len(calls) == 1
        renew()
        answers = list(renewing.explain_many([coffee] * 3, concurrency=3))
    assert all(answer.predictions[0].label == "espresso" for answer in answers)
    assert len(calls) == 2
    assert all(answer.predictions for answer in asyncio.run(ask()))
    assert len(calls) == 4


def test_a_server_without_workers_is_asked_until_it_has_one(serve, imagenet, coffee):
    with serve(imagenet, disable_token_authorization="true") as server, ThreadPoolExecutor(1) as threads:
        side = server.inference
        scale(server, 0)
        with Client(side.url, "imagenet", retry=Retry(attempts=2, first=0.1)) as client:
            with pytest.raises(errors.RequestError) as caught:
                client.predict(coffee)
            assert (caught.value.status, caught.value.code) == (503, "ServiceUnavailableException")
        with Client(side.url, "imagenet", retry=Retry(attempts=200, longest=1.0)) as client:
            waiting = threads.submit(client.explain, coffee)
            scale(server, 1)
            assert waiting.result(120).predictions[0].label == "espresso"


def test_nothing_that_listens_is_one_line(next_ports, coffee):
    address = f"http://127.0.0.1:{next_ports()}"
    client = Client(address, "imagenet", retry=Retry(attempts=2, first=0.1))
    with client, pytest.raises(errors.ServerUnreachable, match="is the server running") as caught:
        client.predict(coffee)
    assert "\n" not in str(caught.value)
    with Client("here:80", "imagenet") as client, pytest.raises(errors.ServerUnreachable, match="UnsupportedProtocol"):
        client.predict(coffee)


@needs_nginx
def test_the_client_works_through_the_front(imagenet, open_folder, next_ports, coffee):
    with ExitStack() as stack:
        server = stack.enter_context(Server([imagenet], open_folder(), next_ports(), **SERVER_PROPERTIES))
        front = stack.enter_context(started(Front(server, next_ports(), [])))
        side = front.inference
        with Client(side.url, "imagenet", token=side.token) as client:
            assert client.explain(coffee).predictions[0].label == "espresso"
            assert client.describe()["model"]["name"] == "imagenet"
        tokens = iter(["old", side.token])
        with Client(side.url, "imagenet", token=lambda: next(tokens)) as client:
            assert client.predict(coffee).predictions
        with Client(side.url, "imagenet", token="old", http=httpx.Client()) as client:
            with pytest.raises(errors.RequestError) as caught:
                client.predict(coffee)
            assert (caught.value.status, caught.value.code) == (401, "no_token")
            with pytest.raises(errors.UnexpectedAnswer, match="no page"):
                client.describe()
