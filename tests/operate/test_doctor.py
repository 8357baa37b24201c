"""The doctor's rules hold for what is shipped, and each of them finds what it is about."""

import json
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from camserve.build.unpack import read_contents
from camserve.cli import main
from camserve.operate.doctor.files import check_model, check_properties, read_properties
from camserve.operate.doctor.findings import ADVICE, UNSAFE
from camserve.operate.doctor.rules import KEYS, RULES
from camserve.operate.server import SHIPPED_CONFIG

WRONG = {
    "inference_address": "http://0.0.0.0:8080",
    "management_address": "http://10.0.0.7:8081",
    "metrics_address": "http://0.0.0.0:8082",
    "grpc_inference_address": "0.0.0.0",
    "grpc_management_address": "10.0.0.7",
    "disable_token_authorization": "true",
    "enable_model_api": "true",
    "allowed_urls": "https://models.example/.*,file:///tmp/.*",
    "use_env_allowed_urls": "true",
    "enable_envvars_config": "true",
    "install_py_dep_per_model": "true",
    "blacklist_env_vars": ".*PASSWORD.*",
    "limit_max_image_pixels": "false",
    "cors_allowed_origin": "*",
    "max_response_size": "1000000",
    "service_envelope": "kserve",
    "decode_input_request": "false",
    "job_queue_size": "5000",
    "metrics_mode": "log",
}


def test_the_shipped_configuration_has_no_finding(imagenet):
    assert check_properties(read_properties(SHIPPED_CONFIG), "shipped") == []
    assert check_model(read_contents(imagenet).config, "shipped") == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_each_rule_finds_its_key_and_the_line_to_write_heals_it(rule):
    shipped = read_properties(SHIPPED_CONFIG)
    (found,) = check_properties({**shipped, rule.key: WRONG[rule.key]}, "x")
    assert (found.level, found.where) == (rule.level, "x")
    assert found.risk.startswith(f"{rule.key}: ")
    key, _, value = found.line.partition("=")
    assert key == rule.key
    assert check_properties({**shipped, key: value}, "x") == []


def test_an_empty_file_gets_torchserves_own_defaults():
    unsafe = {found.risk.partition(":")[0] for found in check_properties({}, "x") if found.level == UNSAFE}
    assert unsafe == {"allowed_urls", "blacklist_env_vars"}


def test_a_misspelled_key_is_named_with_its_neighbour():
    shipped = read_properties(SHIPPED_CONFIG)
    (found,) = check_properties({**shipped, "enable_model_apis": "true"}, "x")
    assert found.level == ADVICE
    assert "did you mean 'enable_model_api'" in found.risk


def test_torchserve_knows_every_key_of_the_rules():
    """TorchServe passes over keys that it does not know: its own class file is asked."""
    jar = Path(find_spec("ts").origin).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as archive:
        read = archive.read("org/pytorch/serve/util/ConfigManager.class")
    by_the_launcher = {"plugins_path", "vmargs", "models"}  # ts/model_server.py, and the snapshot
    assert [key for key in KEYS if key.encode() not in read and key not in by_the_launcher] == []
    assert {rule.key for rule in RULES} == set(WRONG)


def test_a_models_own_keys_are_checked():
    found = check_model({"responseTimeout": 600, "maxBatchDelay": 10, "batchSize": 8}, "m")
    assert [each.line for each in found] == ["responseTimeout: 30"]
    assert len(check_model({}, "m")) == 3  # TorchServe's defaults


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
    assert main(["doctor", "--url", "http://127.0.0.1:9"]) == 1
    assert "nothing answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_the_shipped_pattern_of_secrets_is_one_that_java_reads():
    """Java's and Python's patterns differ; this one is of what they share."""
    line = read_properties(SHIPPED_CONFIG)["blacklist_env_vars"]
    assert line.startswith("(?i)")
    assert "\\" not in line  # a properties file would eat it
