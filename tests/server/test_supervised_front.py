"""``camserve serve --proxy``: server and front start, end and fail together."""

import re
import signal
import socket
import time
from pathlib import Path

import faulty_network as faults
import psutil
import pytest
import requests
from faulty_client import picture
from nginx_needed import needs_nginx

from camserve.operate.ports import is_free

pytestmark = [pytest.mark.server, needs_nginx]


def asked(line):
    """Return address and token of the curl line that the command prints."""
    token, url = re.fullmatch(r"curl -H 'Authorization: Bearer (\S+)' -T photo.jpg (\S+)", line).groups()
    return url, {"Authorization": f"Bearer {token}"}


def ask(url, headers, color=faults.FINE):
    return requests.post(url, headers=headers, data=picture(color), timeout=60)


def nginx_of(running):
    """Return nginx's master."""
    found = [process for process in running.below if process.name() == "nginx"]
    (master,) = [process for process in found if process.parent() not in found]
    return master


def assert_gone(processes):
    assert psutil.wait_procs(processes, timeout=1)[1] == []


def test_a_signal_drains_the_front_and_ends_both(supervise, faulty_archive, open_folder):
    folder = open_folder()
    with supervise(folder, "--proxy", "--cors", "https://a.example", faulty_archive) as running:
        url, headers = asked(running.until("/predictions/faulty"))
        assert url.startswith(f"http://127.0.0.1:{running.port + 5}/")
        assert running.until("in a browser") == f"in a browser: {url}, which asks for the token"
        assert ask(url, headers).status_code == 200
        below = running.below
        body = picture(faults.SLOW)
        with socket.create_connection(("127.0.0.1", running.port + 5), 60) as raw:
            lines = ["POST /predictions/faulty HTTP/1.1", "Host: x", f"Authorization: {headers['Authorization']}"]
            lines += [f"Content-Length: {len(body)}", "Expect: 100-continue", "", ""]
            raw.sendall("\r\n".join(lines).encode())
            assert raw.recv(1000).startswith(b"HTTP/1.1 100 ")
            running.signal(signal.SIGTERM)
            while not is_free(running.port + 5):
                time.sleep(0.05)
            raw.sendall(body)
            assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert running.end() == 128 + signal.SIGTERM
    assert_gone(below)
    assert is_free(running.port)
    assert is_free(running.port + 5)
    assert list((folder / "front" / "clients").iterdir()) == []
    assert not (folder / "front" / "nginx.conf").exists()


def test_a_killed_front_ends_the_server_and_is_named(supervise, faulty_archive, open_folder):
    with supervise(open_folder(), "--proxy", "0", faulty_archive) as running:
        running.until("/predictions/faulty")
        below = running.below
        nginx_of(running).kill()
        assert running.end() == 1
    assert running.lines[-1].startswith("camserve: nginx has ended (killed by SIGKILL")
    assert_gone(below)


def test_a_killed_java_ends_the_front(supervise, faulty_archive, open_folder):
    with supervise(open_folder(), "--proxy", "0", faulty_archive) as running:
        running.until("/predictions/faulty")
        below = running.below
        running.java().kill()
        assert running.end() == 128 + signal.SIGKILL
    assert_gone(below)


def test_a_temporary_folder_is_one_that_nginx_reaches(supervise, faulty_archive, open_folder):
    folder = open_folder()
    folder.chmod(0o1777)
    with supervise(None, "--proxy", "0", faulty_archive, TMPDIR=str(folder)) as running:
        url, headers = asked(running.until("/predictions/faulty"))
        assert ask(url, headers).status_code == 200
        running.signal(signal.SIGTERM)
        running.end()
    assert list(folder.iterdir()) == []


def test_a_killed_command_leaves_neither_front_nor_server_behind(supervise, faulty_archive, open_folder):
    with supervise(open_folder(), "--proxy", "0", faulty_archive) as running:
        running.until("/predictions/faulty")
        below = running.below
        assert "nginx" in {process.name() for process in below}
        running.signal(signal.SIGKILL)
        assert running.end() == -signal.SIGKILL
        assert psutil.wait_procs(below, timeout=40)[1] == []


def mount_secret(folder, version, **clients):
    """Lay files out as Kubernetes mounts a Secret: names link through ``..data``, which is exchanged whole."""
    data = folder / f"..{version}"
    data.mkdir(parents=True)
    for name, token in clients.items():
        (data / name).write_text(f"{token}\n")
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..new").symlink_to(data.name)
    (folder / "..new").rename(folder / "..data")


def until(holds):
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert holds()


def test_clients_of_a_mounted_secret_are_let_in_and_out_again(supervise, faulty_archive, open_folder):
    """As config/kubernetes runs it: on every address, with the metrics too."""
    folder = open_folder()
    ann, bob = "ann-" + "a" * 20, "bob-" + "b" * 20
    mount_secret(folder / "secret", "1", ann=ann)
    options = ["--listen", "0.0.0.0", "--metrics-listen", "0.0.0.0", "--clients", folder / "secret"]
    with supervise(folder / "run", "--proxy", "0", *options, faulty_archive) as running:
        url, shown = asked(running.until("/predictions/faulty"))
        assert shown == {"Authorization": "Bearer TOKEN"}  # logs of pods go to many places

        def status(token):
            return ask(url, {"Authorization": f"Bearer {token}"}).status_code

        assert (status(ann), status(bob)) == (200, 401)
        elsewhere = url.replace("127.0.0.1", "127.0.0.2")
        assert requests.get(f"{elsewhere.partition('/predictions')[0]}/v2/health/ready", timeout=10).ok
        assert requests.get(f"http://127.0.0.2:{running.port + 2}/metrics", timeout=10).ok
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.2:{running.port + 1}/models", timeout=10)
        mount_secret(folder / "secret", "2", bob=bob, odd="short")
        (folder / "secret" / "ann").unlink()
        until(lambda: (status(ann), status(bob)) == (401, 200))
        running.until("'odd' in")
        running.signal(signal.SIGTERM)
        running.end()
    assert list((folder / "run" / "front" / "clients").iterdir()) == []
