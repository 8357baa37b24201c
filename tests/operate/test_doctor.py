"""The doctor's rules hold for what is shipped, and each of them finds what it is about."""

import dataclasses
import zipfile
from importlib.util import find_spec
from pathlib import Path

from camserve.build.recipe import load_recipe
from camserve.operate.doctor.files import check_model, check_properties, read_properties
from camserve.operate.doctor.findings import ADVICE, UNSAFE
from camserve.operate.doctor.limits import check_limits
from camserve.operate.doctor.rules import KEYS, RULES
from camserve.operate.shipped import CONFIG_FOLDER, SHIPPED_CONFIG
from camserve.serving.engines.service_envelopes import ENVELOPES
from camserve.settings import Limits

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
    "service_envelope": "kservev3",
    "job_queue_size": "5000",
    "metrics_mode": "log",
}


def test_the_shipped_configuration_has_no_finding():
    assert check_properties(read_properties(SHIPPED_CONFIG), "shipped") == []
    for recipe in (CONFIG_FOLDER / "models").glob("*.yaml"):
        assert check_model(load_recipe(recipe).server_keys, recipe.name) == []


def test_each_rule_finds_its_key_and_the_line_to_write_heals_it():
    shipped = read_properties(SHIPPED_CONFIG)
    for rule in RULES:
        (found,) = check_properties({**shipped, rule.key: WRONG[rule.key]}, "x")
        assert (found.level, found.where) == (rule.level, "x"), rule.key
        assert found.risk.startswith(f"{rule.key}: ")
        key, _, value = found.line.partition("=")
        assert key == rule.key
        assert check_properties({**shipped, key: value}, "x") == [], rule.key


def described(batch=8, workers=1, **limits):
    card = dataclasses.asdict(Limits(**{"answer_ms": 1_000, **limits}))
    return {"batchSize": batch, "maxWorkers": workers, "customizedMetadata": {"limits": card}}


def risks(memory=16_000_000_000, **changes):
    return [found.risk for found in check_limits(described(**changes), "x", memory)]


def test_limits_are_multiplied_out():
    assert risks() == []
    assert risks(memory=1_000_000_000) == ["pictures of 1 x 8 rows may hold 0.8 GB; the machine has 1.0 GB"]
    (held,) = risks(workers=16)
    assert held.startswith("pictures of 16 x 8 rows may hold 12.")
    assert len(risks(max_pixels=1_000_000_000)) == 1


def test_a_batch_that_keeps_others_waiting_is_named():
    (found,) = risks(answer_ms=12_000)
    assert found.startswith("a batch may take 12.0 s")
    assert risks(answer_ms=None) == []


def test_limits_beyond_the_servers_own_are_named():
    found = risks(max_response_bytes=9_000_000, max_bytes=7_000_000)
    assert [risk.split(",")[0] for risk in found] == [
        "limits.max_response_bytes is 9000000",
        "limits.max_bytes is 7000000",
    ]


def test_an_empty_file_gets_torchserves_own_defaults():
    unsafe = {found.risk.partition(":")[0] for found in check_properties({}, "x") if found.level == UNSAFE}
    assert unsafe == {"allowed_urls", "blacklist_env_vars"}


def test_a_misspelled_key_is_named_with_its_neighbour():
    shipped = read_properties(SHIPPED_CONFIG)
    (found,) = check_properties({**shipped, "enable_model_apis": "true"}, "x")
    assert found.level == ADVICE
    assert "did you mean 'enable_model_api'" in found.risk


def test_torchserve_knows_every_key_of_the_rules():
    """TorchServe passes over keys that it does not know: its own class file lists what it reads."""
    jar = Path(find_spec("ts").origin).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as archive:
        read = archive.read("org/pytorch/serve/util/ConfigManager.class")
    by_the_launcher = {"plugins_path", "vmargs", "models"}  # ts/model_server.py, and the snapshot
    assert [key for key in KEYS if key.encode() not in read and key not in by_the_launcher] == []
    assert {rule.key for rule in RULES} == set(WRONG)


def test_a_models_own_keys_are_checked():
    found = check_model({"responseTimeout": 600, "maxBatchDelay": 10, "batchSize": 8}, "m")
    assert [finding.line for finding in found] == ["responseTimeout: 30"]
    assert len(check_model({}, "m")) == 3  # TorchServe's defaults
    (found,) = check_model(
        {"responseTimeout": 30, "maxBatchDelay": 10, "batchSize": 8, "asyncCommunication": True}, "m"
    )
    assert found.line == "asyncCommunication: false"


def test_what_camserve_serves_with_and_without_is_no_finding():
    shipped = read_properties(SHIPPED_CONFIG)
    for name in ENVELOPES:
        assert check_properties({**shipped, "service_envelope": name, "decode_input_request": "false"}, "x") == []


def test_the_shipped_pattern_of_secrets_is_one_that_java_reads():
    """Java's and Python's patterns differ; this one is of what they share."""
    line = read_properties(SHIPPED_CONFIG)["blacklist_env_vars"]
    assert line.startswith("(?i)")
    assert "\\" not in line  # a properties file would eat it
