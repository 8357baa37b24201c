"""camserve doctor."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from camserve.cli import main
from camserve.operate.doctor.findings import UNSAFE
from camserve.operate.shipped import SHIPPED_CONFIG, SHIPPED_METRICS


def test_the_command_prints_and_exits_by_what_it_found(tmp_path, capsys):
    config = tmp_path / "config.properties"
    config.write_text(SHIPPED_CONFIG.read_text() + "\nenable_model_api=true\n")
    assert main(["doctor", "--config", str(SHIPPED_CONFIG)]) == 0
    assert capsys.readouterr().out == "0 unsafe, 0 advice\n"
    assert main(["doctor", "--config", str(config)]) == 1
    assert "write: enable_model_api=false" in capsys.readouterr().out
    assert main(["doctor", "--config", str(config), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["level"] == UNSAFE
    assert main(["doctor"]) == 1
    assert "name what to check" in capsys.readouterr().err
    assert main(["doctor", "--url", "http://127.0.0.1:9"]) == 1
    assert "nothing answers at http://127.0.0.1:9" in capsys.readouterr().err


STANDARD = Path(find_spec("ts").origin).parent / "configs" / "metrics.yaml"  # TorchServe's own
AUTO = "model_metrics_auto_detect"


@pytest.mark.parametrize(
    ("lines", "said", "unsaid"),
    [
        ("", "TorchServe's own file does not declare 16 of camserve's metrics, which are not counted", AUTO),
        (f"metrics_config={STANDARD}\n{AUTO}=true", f"camserve metrics {STANDARD} > metrics.yaml", "own file"),
        (f"{AUTO}=true", f"{AUTO} adds none, for a worker sends only what the file declares", "> metrics.yaml"),
        ("metrics_config=/nowhere/m.yaml", "metrics_config: there is no file /nowhere/m.yaml", "camserve's"),
        (f"metrics_config={SHIPPED_CONFIG}", "metrics_config", "which are not counted"),
        (f"metrics_config={SHIPPED_METRICS}\n{AUTO}=true", "0 unsafe, 0 advice", "metrics_config"),
    ],
)
def test_a_metrics_file_without_ours_is_found(lines, said, unsaid, tmp_path, capsys):
    shipped = SHIPPED_CONFIG.read_text().replace("metrics_config=config/metrics.yaml", "")
    (tmp_path / "config.properties").write_text(f"{shipped}\n{lines}\n")
    assert main(["doctor", "--config", str(tmp_path / "config.properties")]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert unsaid not in printed
