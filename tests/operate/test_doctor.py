"""The doctor's rules hold for what is shipped, and each of them finds what it is about."""

import zipfile
from importlib.util import find_spec
from pathlib import Path

from camserve.build.archive import SERVING
from camserve.build.recipe import load_recipe
from camserve.operate.doctor.files import check_model, check_properties, read_properties
from camserve.operate.doctor.findings import ADVICE, UNSAFE
from camserve.operate.doctor.rules import KEYS, RULES
from camserve.operate.shipped import CONFIG_FOLDER, SHIPPED_CONFIG
from camserve.serving.engines.service_envelopes import ENVELOPES

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
        assert check_model({**SERVING, **load_recipe(recipe).serving}, recipe.name) == []


def test_each_rule_finds_its_key_and_the_line_to_write_heals_it():
    shipped = read_properties(SHIPPED_CONFIG)
    for rule in RULES:
        (found,) = check_properties({**shipped, rule.key: WRONG[rule.key]}, "x")
        assert (found.level, found.where) == (rule.level, "x"), rule.key
        assert found.risk.startswith(f"{rule.key}: ")
        key, _, value = found.line.partition("=")
        assert key == rule.key
        assert check_properties({**shipped, key: value}, "x") == [], rule.key


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
    (found,) = check_model({**SERVING, "asyncCommunication": True}, "m")
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
