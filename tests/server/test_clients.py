"""The lines of docs/clients.md, run by each client as they stand there, and beside the stock image_classifier."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from grpc_stub import generated

pytestmark = pytest.mark.server

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "clients.md").read_text()
EXAMPLES = {
    section.partition("\n")[0]: re.search(r"```(\w+)\n(.*?)```", section, re.DOTALL).groups()
    for section in PAGE.split("\n### ")[1:]
}
ROWS = {name: rest.split("|") for name, rest in re.findall(r"^\| \[(.+?)\]\(#.*?\) \|(.*)\|$", PAGE, re.MULTILINE)}
OWN_PYTHON = {"KServe v1": "KSERVE_PYTHON", "KServe v2": "KSERVE_PYTHON"}
CLIENTS_PYTHON = ("tritonclient", "MLServer's codecs")
SECONDS = 120


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stubs")
    generated(folder)
    return folder


@pytest.fixture(scope="module")
def stock(adopted, serve):
    with serve(adopted[0]) as running:
        yield running


@pytest.fixture(scope="module")
def stock_labels(adopted):
    with zipfile.ZipFile(adopted[0]) as archive:
        return json.loads(archive.read("index_to_name.json")).values()


def interpreter(title, language):
    """Return the command that runs an example from its standard input; skip where it is not here."""
    if language == "bash":
        if title == "newman" and not shutil.which("newman", path=search_path()):
            pytest.skip("newman is not installed; scripts/test sets NEWMAN_BIN")
        return ["bash", "-e"]
    if language == "javascript":
        if not shutil.which("node"):
            pytest.skip("node is not installed: apt-get install nodejs")
        return ["node", "--input-type=module", "-"]
    name = "CLIENTS_PYTHON" if title in CLIENTS_PYTHON else OWN_PYTHON.get(title)
    if name and name not in os.environ:
        pytest.skip(f"{name} is not set; scripts/test sets it")
    return [os.environ[name] if name else sys.executable, "-"]


def search_path():
    return f"{os.environ.get('NEWMAN_BIN', '')}{os.pathsep}{os.environ['PATH']}"


def begin(language, server):
    """Return the lines that the page says each example begins after."""
    side = server.inference
    if language == "javascript":
        photo = "fs.readFileSync('photo.png')"
        return f"import fs from 'fs';\nconst url = '{side.url}', token = '{side.token}', photo = {photo};\n"
    if language == "bash":
        return f"URL={side.url} TOKEN={side.token}\n"
    address = f"127.0.0.1:{urlsplit(side.url).port + 3}"
    words = f"url, token, grpc_address = {side.url!r}, {side.token!r}, {address!r}"
    return f"{words}\nphoto = open('photo.png', 'rb').read()\n"


def run(title, server, folder, photo, stubs, model="imagenet"):
    language, code = EXAMPLES[title]
    (folder / "photo.png").write_bytes(photo)
    shutil.copy(DOCS / "camserve.postman_collection.json", folder)
    return subprocess.run(
        interpreter(title, language),
        input=begin(language, server) + code.replace("imagenet", model),
        cwd=folder,
        env={**os.environ, "PATH": search_path(), "PYTHONPATH": str(stubs)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_the_table_lists_the_examples_and_no_other():
    assert list(ROWS) == list(EXAMPLES)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_works_as_it_stands(server, tmp_path, coffee, stubs, title):
    done = run(title, server, tmp_path, coffee, stubs)
    assert done.returncode == 0, done.stderr + done.stdout
    if title == "newman":
        assert re.search(r"assertions\s*│\s*\d+\s*│\s*0", done.stdout)
    elif title == "MLServer's codecs":
        assert "(1, 1, 7, 7)" in done.stdout  # of plain grey pixels
    else:
        assert "espresso" in done.stdout
    if title == "tritonclient":
        assert "(1, 1, 7, 7)" in done.stdout


@pytest.mark.parametrize("title", EXAMPLES)
def test_the_table_says_whether_image_classifier_answers(stock, stock_labels, tmp_path, coffee, stubs, title):
    done = run(title, stock, tmp_path, coffee, stubs, "old")
    answered = any(f'"{label}"' in done.stdout for label in stock_labels if label != "cup")  # which requests name
    assert ROWS[title][-1].strip() == ("answered" if answered else "refused")


def test_a_client_that_names_a_picture_twice_is_heard_once(server, tmp_path, coffee, chelsea):
    """TorchServe keeps the last; the page says so."""
    (tmp_path / "a.png").write_bytes(coffee)
    (tmp_path / "b.png").write_bytes(chelsea)
    token = f"Authorization: Bearer {server.inference.token}"
    command = ["curl", "-sS", "-H", token, "-F", "data=@a.png", "-F", "data=@b.png"]
    url = f"{server.inference.url}/predictions/imagenet?target=cup"
    done = subprocess.run([*command, url], cwd=tmp_path, capture_output=True, check=True, timeout=SECONDS, text=True)
    assert "tiger cat" in done.stdout
    assert '"asked":"predicted"' in done.stdout


def test_json_as_a_form_gets_the_header_to_add(server, tmp_path, coffee):
    (tmp_path / "body.json").write_text(json.dumps({"instances": [{"data": base64.b64encode(coffee).decode()}]}))
    token = f"Authorization: Bearer {server.inference.token}"
    command = ["curl", "-sS", "-H", token, "-d", "@body.json", f"{server.inference.url}/v1/models/imagenet:predict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=SECONDS, text=True)
    assert "-H 'Content-Type: application/json'" in done.stdout
    headers = ["-H", "Content-Type: application/json"]
    done = subprocess.run(
        [*command, *headers], cwd=tmp_path, capture_output=True, check=True, timeout=SECONDS, text=True
    )
    assert "espresso" in done.stdout
