"""``import camserve`` loads nothing, and a client loads no torch."""

import subprocess
import sys

import pytest

import camserve


def modules_after(line):
    script = f"import sys; {line}; print(' '.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_package_alone_loads_nothing_else():
    assert not modules_after("import camserve") & {"torch", "numpy", "httpx", "PIL", "camserve.client"}


def test_a_client_draws_without_torch():
    line = "from camserve import Client, AsyncClient; Client('http://127.0.0.1:1', 'm').close()"
    loaded = modules_after(f"{line}; import camserve.client.drawing")
    assert "httpx" in loaded
    assert not loaded & {"torch", "torchvision", "requests", "yaml"}


def test_a_wrong_name_is_no_part_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        camserve.Clients  # noqa: B018
