"""Archives as an application for clusters: the same routes behind Ray's own proxies."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from engine_requests import PNG, PREDICT, ask, bodies_of, code_of, started, without_ids
from test_unsafe import copy_changed, renumber

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.operate.endpoint import Endpoint
from camserve.settings import RuntimeSpec
from conftest import RECIPE

pytest.importorskip("ray", reason="pip install 'camserve[ray]'")
pytestmark = pytest.mark.server

HERE = Path(__file__).parent
MANIFEST = HERE.parents[1] / "config" / "kubernetes" / "kuberay" / "ray-service.yaml"
TOKEN = "a-token-of-this-test"


@pytest.fixture(scope="module")
def archive(build_once):
    recipe = replace(load_recipe(RECIPE), runtime=RuntimeSpec(threads=1), serving={"batchSize": 4})
    return build_once("one worker", lambda folder: build_archive(recipe, folder, lambda line: None))


@contextmanager
def applied(archives, folder, port, status):
    """Run the application while a block runs, once it has a status; yield where it answers."""
    (folder / "token").write_text(TOKEN)
    command = [sys.executable, str(HERE / "ray_application.py"), *map(str, archives), str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert any(line.strip() == status for line in process.stdout)
            yield Endpoint(f"http://127.0.0.1:{port}", TOKEN)
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def side(archive, tmp_path_factory, next_ports):
    with applied([archive], tmp_path_factory.mktemp("application"), next_ports(), "RUNNING") as side:
        yield side


@pytest.fixture(scope="module")
def other(archive, tmp_path_factory, next_ports):
    with started("asgi", archive, tmp_path_factory.mktemp("asgi"), next_ports()) as (_, side):
        yield side


@pytest.mark.parametrize("name", ["body", "form", "path", "picture", "v1", "v2", "no picture", "broken json"])
def test_an_answer_is_that_of_one_process_byte_for_byte(side, other, coffee, name):
    method, path, rest = bodies_of(coffee)[name]
    assert without_ids(ask(side, method, path, **rest)) == without_ids(ask(other, method, path, **rest))


def test_strangers_and_long_bodies_are_refused_and_numbers_are_there(side, coffee):
    assert code_of(ask(Endpoint(side.url, "x"), "POST", PREDICT, data=coffee, headers=PNG)) == (401, "no_token")
    assert code_of(ask(side, "POST", PREDICT, data=bytes(7_000_000))) == (413, "too_many_bytes")
    assert ask(side, "GET", "/v2/health/ready").ok
    assert "cam_requests_total{" in ask(side, "GET", "/metrics").text


def wait_for_model(side, name, seconds=60):
    end = time.monotonic() + seconds
    while not ask(side, "GET", f"/v2/models/{name}/ready").ok:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_an_archive_that_does_not_load_is_no_end_of_the_others(archive, tmp_path, next_ports, coffee):
    """The routes waited for every model, so that none answered."""
    broken = tmp_path / "broken.mar"

    def change(name, data):
        return b"no weights" if name == "weights.safetensors" else renumber(name, data, "2.0")

    copy_changed(archive, broken, change)
    with applied([archive, broken], tmp_path, next_ports(), "DEPLOY_FAILED") as side:
        wait_for_model(side, "imagenet")  # which may load for longer than the other takes to fail
        assert ask(side, "POST", PREDICT, data=coffee, headers=PNG).ok
        lost = ask(side, "POST", "/predictions/broken", data=coffee, headers=PNG)
        assert code_of(lost) == (500, "internal_error")
        ready = {name: ask(side, "GET", f"/v2/models/{name}/ready").status_code for name in ("imagenet", "broken")}
        assert ready == {"imagenet": 200, "broken": 503}


def run_python(script, *arguments, **environment):
    """Run a script in a process without pytest's filter of warnings, which Ray's own imports do not pass."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=300
    )


BUILD = "from ray.serve.scripts import cli; cli()"
CHECK = """
import sys
from ray.serve.schema import ServeDeploySchema
import yaml
for text in sys.stdin.read().split("---next---"):
    for one in ServeDeploySchema.model_validate(yaml.safe_load(text)).applications:
        print(one.import_path, *(deployment.name for deployment in one.deployments))
"""


def test_what_serve_build_writes_and_what_a_ray_service_says_are_configurations(archive, tmp_path):
    made = tmp_path / "made.yaml"
    path = "camserve.asgi.on_ray.application:app"
    done = run_python(BUILD, "build", "-o", made, path, CAMSERVE_ARCHIVES=str(archive))
    assert done.returncode == 0, done.stderr
    said = yaml.safe_load(MANIFEST.read_text())["spec"]["serveConfigV2"]
    texts = f"{made.read_text()}\n---next---\n{said}"
    read = subprocess.run([sys.executable, "-c", CHECK], input=texts, capture_output=True, text=True, check=False)
    assert read.stdout.splitlines() == [f"{path} imagenet routes", "camserve.asgi.on_ray.application:build"], (
        read.stderr
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("{}", "ConfigError: args name no archives"),
        ("{'archive': 'a.mar'}", "BadOption: args 'archive' is not one of"),
        ("{'archives': '/a.mar'}", "ConfigError: args: archives is a list of paths"),
        ("{'archives': ['/routes.mar']}", "ConfigError: /routes.mar: Ray Serve knows the routes themselves"),
        ("{'archives': ['/a.mar'], 'num_cpus': 'two'}", "ConfigError: args: num_cpus is a number of 0 or more"),
        ("{'archives': ['/a/m.mar', '/b/m.mar', '/c/n.mar']}", "/a/m.mar and /b/m.mar would both answer at m"),
    ],
)
def test_an_argument_that_is_wrong_or_missing_is_said_in_one_line(args, said):
    done = run_python(f"from camserve.asgi.on_ray.application import build; build({args})")
    assert said in done.stderr.splitlines()[-1]
