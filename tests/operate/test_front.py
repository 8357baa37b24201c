"""What the front is made from: its template, its tokens, and words that are refused before anything starts."""

import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from camserve.cli import main
from camserve.errors import ConfigError
from camserve.operate.client_tokens import ClientTokens
from camserve.operate.front import TEMPLATE, Front, add_client, find_nginx
from camserve.operate.ports import free_ports
from camserve.operate.server import Server


@pytest.fixture
def nginx(tmp_path, monkeypatch):
    """A program of that name, which nobody runs here."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nginx").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.fixture
def server(tmp_path):
    (tmp_path / "pets.mar").touch()
    return Server([tmp_path / "pets.mar"], tmp_path / "state", free_ports(19480), max_request_size="1000")


def test_every_word_of_the_template_is_filled_in_and_explained(nginx, server):
    front = Front(server, free_ports(19580), ["https://A.example:8443", "http://b.example"])
    written = front._render()
    assert re.findall("@[A-Z_]+@", written) == []
    text = TEMPLATE.read_text()
    explained = set(re.findall(r"^#   @([A-Z_]+)@", text, re.MULTILINE))
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert explained == set(re.findall("@([A-Z_]+)@", body))
    assert '"https://a.example:8443" $http_origin;' in written
    assert "client_max_body_size 1000;" in written


def test_every_refusal_of_the_front_is_documented_and_no_other():
    written = set(re.findall(r"""return (\d+) '{"error": {"code": "(\w+)",""", TEMPLATE.read_text()))
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    assert written == set(re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE))


def test_wrong_words_are_refused_in_one_line(nginx, server, tmp_path):
    for origin in ("*", "https://a.example/path", 'https://a" 1; default "', "a.example"):
        with pytest.raises(ConfigError, match=r"is no origin: write https://your\.site"):
            Front(server, free_ports(19580), [origin])
    odd = Server([tmp_path / "pets.mar"], tmp_path / 'a"$b', free_ports(19480))
    with pytest.raises(ConfigError, match="nginx cannot use a folder with quotes"):
        Front(odd, free_ports(19580))


def test_without_nginx_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="--proxy needs nginx: apt-get install nginx-light"):
        find_nginx()


@pytest.mark.parametrize("option", [["--cors", "https://a.example"], ["--listen", "0.0.0.0"], ["--clients", "."]])
def test_options_of_a_front_without_one_are_refused(capsys, tmp_path, option):
    (tmp_path / "pets.mar").touch()
    assert main(["serve", str(tmp_path / "pets.mar"), *option]) == 1
    assert capsys.readouterr().err == f"camserve: {option[0]} needs --proxy\n"


def test_an_address_is_written_as_nginx_and_torchserve_read_it(nginx, server):
    port = free_ports(19580)
    assert f"listen 0.0.0.0:{port} backlog" in Front(server, port, host="0.0.0.0")._render()
    assert f"listen [::]:{port} backlog" in Front(server, port, host="::")._render()
    assert Front(server, port, host="0.0.0.0").inference.url == f"http://127.0.0.1:{port}"
    with pytest.raises(ConfigError, match=r"--listen 'example\.com' is no IP address: write 0\.0\.0\.0"):
        Front(server, port, host="example.com")


def test_a_folder_of_tokens_is_read_and_a_wrong_one_named(tmp_path):
    lines = []
    (tmp_path / "ann").write_text("a" * 16 + "\n")
    (tmp_path / "..data").mkdir()
    tokens = ClientTokens(tmp_path, lines.append)
    assert tokens.read() == {"a" * 16}
    (tmp_path / "bob").write_text("a token; with words")
    assert tokens.read() == tokens.read() == {"a" * 16}
    (line,) = lines
    assert "'bob' in" in line
    assert "must hold one token of 16 to 128 letters" in line
    with pytest.raises(ConfigError, match="'bob' in"):
        ClientTokens(tmp_path, lines.append)
    with pytest.raises(ConfigError, match="cannot read /nowhere: No such file"):
        ClientTokens(Path("/nowhere"), lines.append)


def test_a_token_is_an_empty_file_whose_time_is_its_end(tmp_path):
    (tmp_path / "clients").mkdir()
    token = add_client(tmp_path, 3600)
    found = (tmp_path / "clients" / token).stat()
    assert re.fullmatch("[A-Za-z0-9_-]{32}", token)
    assert found.st_size == 0
    assert found.st_mtime == pytest.approx(time.time() + 3600, abs=60)


def test_the_configuration_holds_the_key_and_is_its_owners_alone(nginx, server):
    front = Front(server, free_ports(19580))
    front._prepare_folder()
    assert stat.S_IMODE((front.folder / "nginx.conf").stat().st_mode) == 0o600


def test_nginx_takes_the_configuration(server):
    try:
        program = find_nginx()
    except ConfigError as error:
        pytest.skip(str(error))
    front = Front(server, free_ports(19580), ["https://a.example"])
    front._prepare_folder()
    done = subprocess.run(
        [program, "-t", "-c", front.folder / "nginx.conf", "-p", front.folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
