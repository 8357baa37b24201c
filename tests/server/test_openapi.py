"""docs/openapi.yaml describes what a live server does: schemathesis asks, and compares every answer with it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

PAGE = Path(__file__).parents[2] / "docs" / "openapi.yaml"
# A status 500 of camserve's own is in no schema, so the last two find it.
CHECKS = "content_type_conformance,status_code_conformance,response_schema_conformance"


@pytest.mark.skipif("CLIENTS_PYTHON" not in os.environ, reason="CLIENTS_PYTHON is not set; scripts/test sets it")
def test_the_description_holds(server, tmp_path):
    side = server.inference
    (worker,) = server.workers("imagenet")
    command = [Path(os.environ["CLIENTS_PYTHON"]).parent / "schemathesis", "run", PAGE, "--url", side.url]
    command += ["--header", f"Authorization: Bearer {side.token}", "--checks", CHECKS]
    command += ["--phases", "examples,fuzzing", "--max-examples", "40", "--seed", "7", "--no-color"]
    command += ["--request-timeout", "30", "--suppress-health-check", "all"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-8_000:]
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) > 100
    assert [running["pid"] for running in server.workers("imagenet")] == [worker["pid"]]
