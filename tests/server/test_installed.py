"""What is installed from a wheel works outside any clone, with torch and without."""

import signal
import subprocess
from pathlib import Path

import pytest

from camserve.build.locate import find_file
from camserve.operate.ports import free_ports
from environments import NO_CLONE, ROOT, Environment, build_package, copy_sources, run
from model_file import write_pets

pytestmark = pytest.mark.server
CHELSEA = "package://skimage/data/chelsea.png"
COFFEE = "package://skimage/data/coffee.png"
NEEDS_TORCH = "camserve {} needs torch: pip install 'camserve[serve]'\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return build_package("wheel", copy_sources(folder / "sources"), folder)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_an_installed_wheel_builds_explains_serves_and_checks(wheel, folder, tmp_path):
    environment = Environment(tmp_path / "venv")
    environment.install("--no-deps", "--no-index", wheel)
    environment.share_packages()
    assert environment.package_folder(folder).is_relative_to(tmp_path / "venv")
    environment.camserve("archive", write_pets(tmp_path), cwd=folder)
    photo, archive = find_file(CHELSEA), folder / "model_store" / "pets.mar"
    here = environment.camserve("explain", photo, "--archive", archive, "--out", "why.png", cwd=folder)
    assert (folder / "why.png").read_bytes().startswith(b"\x89PNG")
    command = [environment.bin / "camserve", "serve", archive, "--port", str(free_ports(18680)), "--folder", "server"]
    with subprocess.Popen(command, cwd=folder, env=NO_CLONE, stdout=subprocess.PIPE, text=True) as serving:
        try:
            words = serving.stdout.readline().split()
            token, url = words[4].rstrip("'"), words[-1]
            there = environment.camserve("explain", photo, "--url", url, "--token", token, cwd=folder)
            doctor = environment.camserve("doctor", "--config", folder / "server/config.properties", cwd=folder)
        finally:
            serving.send_signal(signal.SIGINT)
    assert there.stdout.splitlines()[:4] == here.stdout.splitlines()[:4]
    assert doctor.stdout == "0 unsafe, 0 advice\n"


def test_the_base_asks_a_server_without_torch(wheel, server, imagenet, folder, tmp_path):
    environment = Environment(tmp_path / "venv")
    environment.install(wheel, "-c", ROOT / "config" / "constraints.txt")
    assert environment.package_folder(folder).is_relative_to(tmp_path / "venv")
    address = f"{server.inference.url}/predictions/imagenet"
    question = ["explain", find_file(COFFEE), "--url", address, "--token", server.inference.token, "--out", "why.png"]
    assert "espresso" in environment.camserve(*question, cwd=folder).stdout
    assert (folder / "why.png").read_bytes().startswith(b"\x89PNG")
    side = server.inference
    script = f"""from camserve import Client
answer = Client({side.url!r}, 'imagenet', token={side.token!r}).explain({str(find_file(COFFEE))!r})
answer.overlay().save('client.png')
print(answer.predictions[0].label)"""
    assert run([environment.python, "-c", script], cwd=folder).stdout == "espresso\n"
    assert (folder / "client.png").read_bytes().startswith(b"\x89PNG")
    management = server.management
    environment.camserve("doctor", "--url", management.url, "--token", management.token, cwd=folder)
    shown = Path(environment.camserve("config", cwd=folder).stdout.strip())
    joined = environment.camserve("metrics", shown / "metrics.yaml", cwd=folder).stdout
    assert "cam_" in joined
    for name in ("archive", "baseline", "explain"):
        arguments = ["photo.jpg", "--archive", imagenet] if name == "explain" else []
        done = environment.camserve(name, *arguments, cwd=folder, check=False)
        assert (done.returncode, done.stderr) == (1, NEEDS_TORCH.format(name))
