"""What a client sends, and what it makes of what comes back, without a server."""

import json

import httpx
import numpy as np
import pytest

from camserve import errors
from camserve.client.answers import Prediction
from camserve.client.options import RequestOptions, write_options
from camserve.client.protocol import (
    NeedToken,
    Question,
    Retry,
    Send,
    Wait,
    address_of,
    exchange,
    retry_after,
)
from camserve.client.replies import read_reply
from camserve.intake.option_parsers import PARSERS

RETRY = Retry(attempts=3, first=1.0, longest=8.0)
BUSY = httpx.Response(503)
DONE = httpx.Response(200)
REFUSED = httpx.Response(400, json={"error": {"code": "bad_option", "message": "no", "request_id": "7"}})
NO_TOKEN = httpx.Response(401)
NO_KEY = httpx.Response(400, json={"code": 400, "type": "InvalidKeyException", "message": "Token expired"})


def walk(*replies, retry=RETRY):
    """Return the steps of an exchange whose steps are answered by ``replies``, and its response."""
    steps, known = exchange(retry, "here"), list(replies)
    taken = [next(steps)]
    try:
        while True:
            taken.append(steps.send(None if isinstance(taken[-1], Wait) else known.pop(0)))
    except StopIteration as end:
        assert known == []
        return taken, end.value


def test_a_busy_server_is_asked_again_and_a_refusal_is_not():
    steps, response = walk("a", BUSY, BUSY, DONE)
    assert [type(step) for step in steps] == [NeedToken, Send, Wait, Send, Wait, Send]
    assert response is DONE
    steps, response = walk("a", REFUSED)
    assert [type(step) for step in steps] == [NeedToken, Send]
    assert response is REFUSED


def test_a_server_that_stays_busy_is_given_up_with_what_it_says():
    _, response = walk("a", BUSY, BUSY, BUSY)
    assert response is BUSY


def test_a_connection_that_is_refused_is_tried_again_and_named_in_the_end():
    error = httpx.ConnectError("Connection refused")
    steps, response = walk("a", error, DONE)
    assert (len(steps), response) == (4, DONE)
    with pytest.raises(errors.ServerUnreachable, match=r"at here .Connection refused.: is the server running"):
        walk("a", error, error, error)


@pytest.mark.parametrize("refusal", [NO_TOKEN, NO_KEY])
def test_a_token_is_renewed_once(refusal):
    steps, response = walk("old", refusal, "new", DONE)
    assert steps == [NeedToken(), Send("old"), NeedToken("old"), Send("new")]
    assert response is DONE
    assert walk("old", refusal, "new", refusal)[1] is refusal
    assert walk("same", refusal, "same") == ([NeedToken(), Send("same"), NeedToken("same")], refusal)


def test_a_token_may_end_while_the_server_is_busy():
    steps, response = walk("old", BUSY, NO_TOKEN, "new", BUSY, DONE)
    assert [step.token for step in steps if isinstance(step, Send)] == ["old", "old", "new", "new"]
    assert response is DONE


def test_waits_double_at_most_and_are_drawn():
    for attempt, most in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0)):
        waits = {Retry(attempts=9).wait(attempt) for _ in range(50)}
        assert len(waits) > 1
        assert 0 <= min(waits) <= max(waits) <= most
        assert max(waits) > most / 3
    assert Retry(attempts=2).wait(2) is None
    with pytest.raises(errors.ConfigError, match="attempts must be 1 or more"):
        Retry(attempts=0)


def test_a_server_that_says_when_is_asked_no_sooner_and_not_at_all_if_that_is_too_late():
    assert 3 <= RETRY.wait(1, 3) <= 4
    assert RETRY.wait(1, 9) is None
    busy = httpx.Response(503, headers={"Retry-After": "3"})
    steps, _ = walk("a", busy, DONE)
    assert 3 <= steps[2].seconds <= 4


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("5", 5, 5),
        ("", 0, 0),
        ("soon", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 1e9, 1e10),
    ],
)
def test_both_forms_of_retry_after_are_read(text, low, high):
    assert low <= retry_after(httpx.Response(503, headers={"Retry-After": text})) <= high


def test_every_option_of_a_request_has_a_type():
    assert list(RequestOptions.__annotations__) == list(PARSERS)


def test_options_in_pythons_words():
    cup = Prediction(968, "cup", 1.0)
    options = {"target": ["tabby, tabby cat", 3, cup], "contrast": np.int64(5), "explain": True, "head": None}
    assert write_options(options) == {
        "target": '["tabby, tabby cat", "index:3", "index:968"]',
        "contrast": "index:5",
        "explain": "true",
    }
    assert write_options({"size": 99, "method": ("gradcam", "cam")}) == {"size": "99", "method": '["gradcam", "cam"]'}
    with pytest.raises(errors.BadOption, match="first argument"):
        write_options({"data": b"x"})


def test_an_address_holds_a_model_of_any_name():
    assert address_of("http://here:1/", "a b/c", "1.0") == "http://here:1/predictions/a%20b%2Fc/1.0"


@pytest.mark.parametrize("error", errors.RequestError.__subclasses__())
def test_a_refusal_is_the_error_of_its_code(error):
    body = json.dumps({"error": {"code": error.code, "message": "why\x1b[1m", "request_id": "7"}}).encode()
    with pytest.raises(error, match="why") as caught:
        read_reply(error.status, body, b"")
    found = caught.value
    assert (type(found), found.status, found.code, found.request_id) == (error, error.status, error.code, "7")
    assert "\x1b" not in str(found)


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (404, {"code": 404, "type": "ModelNotFoundException", "message": "none"}, "ModelNotFoundException", "none"),
        (429, {"error": {"code": "too_many_requests", "message": "64"}}, "too_many_requests", "64"),
        (500, {"error": "worker died"}, "", "worker died"),
        (502, "<html>", "", "answers with status 502"),
        (200, {"error": {"code": "odd", "message": "m"}}, "odd", "m"),
    ],
)
def test_refusals_of_others_keep_their_codes(status, body, code, message):
    with pytest.raises(errors.RequestError, match=message) as caught:
        read_reply(status, json.dumps(body).encode() if isinstance(body, dict) else body.encode(), b"")
    assert (type(caught.value), caught.value.status, caught.value.code) == (errors.RequestError, status, code)


@pytest.mark.parametrize("body", [b'{"tabby": 0.9}', b"[]", b"{}", b'{"predictions": []}', b'{"predictions": 3}'])
def test_an_answer_that_is_not_camserves_is_said_to_be_none(body):
    with pytest.raises(errors.UnexpectedAnswer, match="camserve's"):
        read_reply(200, body, b"")


@pytest.mark.parametrize("token", ["secret\n", "secret\u00fc", "a\rb"])
def test_a_token_that_no_header_holds_is_refused_and_not_shown(token):
    with pytest.raises(errors.ConfigError, match="the token has a line end") as refusal:
        Question("GET", "http://127.0.0.1").arguments(token)
    assert "secret" not in str(refusal.value)
