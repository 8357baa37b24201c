"""The lines of docs/clients.md, run by each client as they stand there, and beside the stock image_classifier."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
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
ORIGIN = "https://your.site"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization",
}


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stubs")
    generated(folder)
    return folder


@pytest.fixture(scope="module")
def stock(adopted, serve):
    """Serve image_classifier with the Open Inference Protocol, and allow another origin as far as TorchServe can."""
    allowed = {"origin": ORIGIN, "methods": "POST", "headers": "Authorization"}
    properties = {f"cors_allowed_{name}": value for name, value in allowed.items()}
    with serve(adopted[0], ts_open_inference_protocol="true", **properties) as running:
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
    said = "answered" if answered else "refused"
    if title == "newman":
        said = f"{done.stdout.count('[200 ')} of 8 answered"
    assert ROWS[title][-1].strip() == said


def test_what_torchserve_does_not_route(server, stock):
    def status(running, path, model="imagenet"):
        side = running.inference
        return requests.get(f"{side.url}{path.format(model)}", headers=side.headers, timeout=SECONDS).status_code

    for path in ("/v2/health/live", "/v2/health/ready", "/v2"):
        assert (status(server, path), status(stock, path)) == (404, 200)
    for path in ("/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/versions/1.0/infer"):
        assert status(server, path) == 404
        assert status(stock, path, "old") in (404, 501)
    assert status(server, "/ping") == 200


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


@pytest.fixture
def proxy(server, next_ports, tmp_path):
    """Run nginx with the lines of the page; return its address."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed: apt-get install nginx")
    (lines,) = re.findall(r"```nginx\n(.*?)```", PAGE, re.DOTALL)
    port = next_ports()
    lines = lines.replace("http://127.0.0.1:8080", server.inference.url)
    paths = " ".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_buffer_size 8m; {paths}\n"
        f"server {{ listen 127.0.0.1:{port};\n{lines}}} }}\n"
    )
    command = [nginx, "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, stderr=log)
    try:
        for _ in range(100):
            if running.poll() is not None or (tmp_path / "pid").exists():
                break
            time.sleep(0.1)
        assert running.poll() is None, (tmp_path / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(SECONDS)


def test_a_page_of_another_origin_may_ask_through_the_proxy_of_the_page(server, stock, proxy, coffee):
    for alone in (server, stock):
        refused = requests.options(f"{alone.inference.url}/predictions/old", headers=PREFLIGHT, timeout=SECONDS)
        assert refused.status_code == 400
    path = f"{proxy}/predictions/imagenet"
    allowed = requests.options(path, headers=PREFLIGHT, timeout=SECONDS)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (204, ORIGIN)
    assert "Authorization" in allowed.headers["Access-Control-Allow-Headers"]
    headers = {**server.inference.headers, "Origin": ORIGIN}
    answer = requests.post(path, coffee, headers=headers, timeout=SECONDS)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    assert requests.post(path, b"x", headers=headers, timeout=SECONDS).headers["Access-Control-Allow-Origin"] == ORIGIN


def test_an_unnamed_field_is_torchserves_own_fault(server):
    form = '--x\r\nContent-Disposition: form-data; name=""\r\n\r\n1\r\n--x--\r\n'
    headers = {**server.inference.headers, "Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.post(f"{server.inference.url}/predictions/imagenet", form, headers=headers, timeout=SECONDS)
    assert (answer.status_code, answer.json()["type"]) == (500, "ErrorDataDecoderException")
