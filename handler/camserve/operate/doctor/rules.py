"""Which values of TorchServe's own settings are safe, and what the others risk."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from camserve.operate.doctor.findings import ADVICE, UNSAFE

SECRETS = ("AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "GITHUB_TOKEN")
ANSWER_BYTES = 6_500_000  # of an answer, in TorchServe's max_response_size of 6,553,500, which headers share
SECRETS_LINE = "blacklist_env_vars=(?i).*(secret|token|passw|credential|api_?key|access_key|private).*"


@dataclass(frozen=True)
class Rule:
    """One key of config.properties and the values that are safe."""

    key: str
    default: str  # what TorchServe takes where the key is missing
    holds: Callable[[str], bool]
    risk: str
    line: str
    level: str = UNSAFE


def _is(value: str) -> Callable[[str], bool]:
    return lambda found: found.lower() == value


def _is_local(address: str) -> bool:
    host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    return address.startswith("unix:") or is_loopback(host)


def _is_explicit(address: str) -> bool:
    host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    return host not in ("0.0.0.0", "::", "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fetches_nothing(patterns: str) -> bool:
    addresses = ("http://a.example/m.mar", "https://a.example/m.mar", "file:///tmp/m.mar")
    return not any(_matches(pattern.strip(), address) for pattern in patterns.split(",") for address in addresses)


def _hides_secrets(pattern: str) -> bool:
    return all(_matches(pattern, name) for name in SECRETS)


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error:
        return False


def _at_most(limit: int) -> Callable[[str], bool]:
    return lambda found: found.isdecimal() and 0 < int(found) <= limit


def _at_least(limit: int) -> Callable[[str], bool]:
    return lambda found: found.isdecimal() and int(found) >= limit


OPEN_PORT = "whoever reaches this port can"
RULES = (
    Rule(
        "inference_address",
        "http://127.0.0.1:8080",
        _is_explicit,
        "requests arrive unencrypted from every network that the machine is in",
        "inference_address=http://127.0.0.1:8080",
    ),
    Rule(
        "management_address",
        "http://127.0.0.1:8081",
        _is_local,
        f"{OPEN_PORT} scale and remove models (CVE-2023-43654 began here)",
        "management_address=http://127.0.0.1:8081",
    ),
    Rule(
        "metrics_address",
        "http://127.0.0.1:8082",
        _is_local,
        f"{OPEN_PORT} read the metrics: no token guards them",
        "metrics_address=http://127.0.0.1:8082",
    ),
    Rule(
        "grpc_inference_address",
        "127.0.0.1",
        _is_explicit,
        "gRPC requests arrive unencrypted from every network that the machine is in",
        "grpc_inference_address=127.0.0.1",
    ),
    Rule(
        "grpc_management_address",
        "127.0.0.1",
        _is_local,
        f"{OPEN_PORT} scale and remove models",
        "grpc_management_address=127.0.0.1",
    ),
    Rule(
        "disable_token_authorization",
        "false",
        _is("false"),
        "requests and management calls need no token",
        "disable_token_authorization=false",
    ),
    Rule(
        "enable_model_api",
        "false",
        _is("false"),
        "a management call can register a model of any local folder, and a model is code",
        "enable_model_api=false",
    ),
    Rule(
        "allowed_urls",
        "file://.*|http(s)?://.*",
        _fetches_nothing,
        "models, which are code, may be fetched from such addresses; those of the model store need none",
        "allowed_urls=none",
    ),
    Rule(
        "use_env_allowed_urls",
        "false",
        _is("false"),
        "an environment variable can widen allowed_urls",
        "use_env_allowed_urls=false",
    ),
    Rule(
        "enable_envvars_config",
        "false",
        _is("false"),
        "environment variables TS_* override every line of this file",
        "enable_envvars_config=false",
    ),
    Rule(
        "install_py_dep_per_model",
        "false",
        _is("false"),
        "an archive can have packages downloaded and installed",
        "install_py_dep_per_model=false",
    ),
    Rule(
        "blacklist_env_vars",
        "",
        _hides_secrets,
        "workers, and so the code in archives, see every secret of the server's environment",
        SECRETS_LINE,
    ),
    Rule(
        "limit_max_image_pixels",
        "true",
        _is("true"),
        "handlers that heed it switch off Pillow's guard against decompression bombs",
        "limit_max_image_pixels=true",
    ),
    Rule(
        "cors_allowed_origin",
        "",
        lambda origin: origin != "*",
        "any web page that a user visits can call this server",
        "cors_allowed_origin=https://your.site",
    ),
    Rule(
        "max_response_size",
        "6553500",
        _at_least(ANSWER_BYTES),
        "an answer longer than this ends the worker; camserve writes up to 6,000,000 bytes",
        "max_response_size=6553500",
    ),
    Rule(
        "service_envelope",
        "",
        lambda name: name in ("", "body", "json", "kserve", "kservev2"),
        "TorchServe has no such envelope, and no worker starts; camserve answers KServe bodies with and without one",
        "service_envelope=",
    ),
    Rule(
        "job_queue_size",
        "100",
        _at_most(100),
        "under overload requests wait for seconds instead of being answered 503 at once",
        "job_queue_size=64",
        ADVICE,
    ),
    Rule(
        "metrics_mode",
        "log",
        _is("prometheus"),
        "the metrics port answers nothing",
        "metrics_mode=prometheus",
        ADVICE,
    ),
)

# What TorchServe 0.12.0 reads (ConfigManager.java); it passes over anything else in silence.
OTHER_KEYS = re.findall(
    r"\w+",
    """
async_logging certificate_file cors_allowed_headers cors_allowed_methods cpp_log_config cpu_launcher_args
cpu_launcher_enable decode_input_request default_response_timeout default_service_handler default_startup_timeout
default_workers_per_model disable_system_metrics enable_grpc_ssl enable_metrics_api grpc_inference_port
grpc_management_port initial_distribution_port initial_worker_port io_ratio ipex_enable ipex_gpu_enable keystore
keystore_pass keystore_type load_models max_request_size metric_time_interval metrics_config
model_metrics_auto_detect model_server_home model_store models netty_client_threads number_of_gpu
number_of_netty_threads plugins_path prefer_direct_buffer private_key_file system_metrics_cmd token_expiration_min
ts_header_key_sequence_end ts_header_key_sequence_id ts_header_key_sequence_start ts_open_inference_protocol
unregister_model_timeout use_native_io vmargs workflow_store model_snapshot grpc_inference_max_connection_age_ms
grpc_inference_max_connection_age_grace_ms grpc_management_max_connection_age_ms
grpc_management_max_connection_age_grace_ms
    """,
)
KEYS = (*(rule.key for rule in RULES), *OTHER_KEYS)

# model-config.yaml: what is safe, why, and the line to write.
MODEL_RULES: tuple[tuple[str, object, Callable[[str], bool], str, str], ...] = (
    (
        "responseTimeout",
        120,
        _at_most(60),
        "a stuck worker holds its requests this many seconds",
        "responseTimeout: 30",
    ),
    ("maxBatchDelay", 100, _at_most(20), "a lone request waits this many milliseconds for others", "maxBatchDelay: 10"),
    ("batchSize", 1, _at_least(2), "requests are answered one by one", "batchSize: 8"),
    (
        "asyncCommunication",
        False,
        _is("false"),
        "it hands over requests one at a time, and camserve does not load with it",
        "asyncCommunication: false",
    ),
)
