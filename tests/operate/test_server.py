"""What a server is started with."""

import socket
from pathlib import Path

import pytest

from camserve.errors import ConfigError
from camserve.operate.endpoint import Endpoint
from camserve.operate.metrics import find_metrics
from camserve.operate.ports import FIRST_PORT, choose_port, free_ports
from camserve.operate.server import Server
from camserve.operate.shipped import SHIPPED_CONFIG, SHIPPED_METRICS


def test_the_shipped_configuration_has_its_own_metrics_wherever_it_is_started(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "metrics.yaml").write_text("of somebody else")
    monkeypatch.chdir(tmp_path)
    assert find_metrics(SHIPPED_CONFIG) == SHIPPED_METRICS


def test_another_configuration_names_its_metrics_from_here_or_beside_itself(tmp_path, monkeypatch):
    config, elsewhere = tmp_path / "own" / "config.properties", tmp_path / "elsewhere"
    config.parent.mkdir()
    elsewhere.mkdir()
    config.write_text("metrics_config=config/metrics.yaml\n")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ConfigError, match=r"there is no file config/metrics\.yaml"):
        find_metrics(config)
    (config.parent / "metrics.yaml").touch()
    assert find_metrics(config) == config.parent / "metrics.yaml"
    (elsewhere / "config").mkdir()
    (elsewhere / "config" / "metrics.yaml").touch()
    assert find_metrics(config) == Path("config/metrics.yaml")
    config.write_text("metrics_mode=log\n")
    assert find_metrics(config) is None


def test_a_taken_port_is_refused_and_a_free_one_is_named():
    first = free_ports(19080)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        with pytest.raises(ConfigError, match=rf"one of the ports {first} to {first + 4} is taken"):
            choose_port(first, print)
    assert choose_port(first, print) == first


def test_the_default_port_may_be_another_one_which_is_reported():
    lines = []
    port = choose_port(None, lines.append)
    assert (port == FIRST_PORT) == (lines == [])


def test_a_server_without_tokens_is_sent_no_header():
    """Httpx refuses to send an empty token, and the server would never be found ready."""
    assert Endpoint("http://127.0.0.1:8080", "").headers == {}
    assert Endpoint("http://127.0.0.1:8080", "abc").headers == {"Authorization": "Bearer abc"}


def test_archives_that_cannot_be_served_are_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        Server([tmp_path / "no.mar"], tmp_path, 19080)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "n.mar").touch()
    with pytest.raises(ConfigError, match="must lie in one folder"):
        Server([tmp_path / "a" / "n.mar", tmp_path / "b" / "n.mar"], tmp_path, 19080)
