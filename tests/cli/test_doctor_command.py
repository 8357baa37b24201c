"""camserve doctor."""

import json

from camserve.cli import main
from camserve.operate.doctor.findings import UNSAFE
from camserve.operate.shipped import SHIPPED_CONFIG


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
