"""The blocks of docs/integrations.md, run as they stand there by the tools that they are for."""

import json
import os
import re
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from camserve.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integrations.md").read_text()
BLOCKS = dict(re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
PYTHON = os.environ.get("INTEGRATIONS_PYTHON")
SECONDS = 300

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(PYTHON is None, reason="INTEGRATIONS_PYTHON is not set; scripts/test sets it"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, coffee, chelsea):
    """Where an example runs: two photos."""
    folder = tmp_path_factory.mktemp("integrations")
    (folder / "photos").mkdir()
    (folder / "photos" / "coffee.png").write_bytes(coffee)
    (folder / "photos" / "chelsea.png").write_bytes(chelsea)
    return folder


@pytest.fixture
def run(server, folder):
    """Run a section's block, and lines after it, and return what they print."""

    def run(section, after="", **changes):
        block = BLOCKS[section]
        for old, new in changes.items():
            assert f"{old}()" in block
            block = block.replace(f"{old}()", new)
        side = server.inference
        before = (
            f"from pathlib import Path\nurl, token = {side.url!r}, {side.token!r}\n"
            "photos = sorted(Path('photos').iterdir())\n"
        )
        environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "PYTHONPATH": str(ROOT / "handler"),
            "HOME": str(folder),
            "XDG_DATA_HOME": "",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": str(folder / "gradio"),
            "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "WANDB_SILENT": "true",
            "FIFTYONE_DO_NOT_TRACK": "true",
        }
        done = subprocess.run(
            [PYTHON, "-"],
            input=before + block + after,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_page_has_a_block_for_each_tool():
    assert list(BLOCKS) == ["Gradio", "MLflow", "Weights & Biases", "FiftyOne"]


def test_a_gradio_demo_answers_and_says_what_is_wrong(run):
    ask = """
from gradio_client import Client as Visitor, handle_file

visitor = Visitor(demo.local_url, verbose=False)
label, why = visitor.predict(handle_file("photos/coffee.png"), "", api_name="/explain")
print(label["label"], Path(why).stat().st_size > 1000)
try:
    visitor.predict(handle_file("photos/coffee.png"), "no such class", api_name="/explain")
except Exception as error:
    print(error)
"""
    shown = run("Gradio", ask, **{"demo.launch": "demo.launch(prevent_thread_lock=True, quiet=True)"})
    assert "espresso True" in shown
    assert "no such class" in shown


def test_mlflow_keeps_overlays_answers_and_strength(run, folder):
    run("MLflow")
    (why,) = folder.glob("mlruns/**/artifacts/why")
    assert sorted(path.name for path in why.iterdir()) == ["chelsea.png", "coffee.png"]
    answer = json.loads((why.parent / "answers" / "coffee.json").read_text())
    assert answer["predictions"][0]["label"] == "espresso"
    (metric,) = folder.glob("mlruns/**/metrics/strength")
    assert len(metric.read_text().splitlines()) == 2


def test_weights_and_biases_keeps_a_table_offline(run, folder):
    run("Weights & Biases")
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/*.table.json")
    kept = json.loads(table.read_text())
    assert [row[1] for row in kept["data"]] == ["tiger cat", "espresso"]
    staged = [path.read_bytes() for path in folder.glob(".local/share/wandb/artifacts/staging/*")]
    pictures = [Image.open(BytesIO(body)).size for body in staged if body.startswith(b"\x89PNG")]
    assert sorted(pictures) == [(451, 300), (600, 400)]


def test_fiftyone_gets_heatmaps_that_lie_where_the_model_looked(run, folder, server):
    side = server.inference
    asked = ["--url", f"{side.url}/predictions/imagenet", "--token", side.token, "--target", "top:2"]
    assert main(["explain", str(folder / "photos"), *asked, "--out", str(folder / "run"), "--save", "jsonl"]) == 0
    look = """
for sample in samples:
    row, column = np.unravel_index(sample.why_0.map.argmax(), sample.why_0.map.shape)
    outside = np.abs(sample.why_0.map[:, :20]).max()
    print(Path(sample.filepath).stem, sample.prediction.label, *sample.why_1.map.shape, row, column, outside, sep=",")
"""
    rows = dict(line.split(",", 1) for line in run("FiftyOne", look).splitlines())
    label, height, width, row, column, outside = rows["coffee"].split(",")
    assert (label, height, width) == ("espresso", "400", "600")
    assert 100 < int(row) < 250  # the cup
    assert 200 < int(column) < 400
    assert float(outside) == 0  # what the model never saw
