"""What is installed is what is in the clone, however it is installed."""

import tarfile
import zipfile
from pathlib import Path

import pytest

import camserve
from camserve.operate.shipped import CONFIG_FOLDER
from environments import ROOT, Environment, build_package, copy_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp("clone") / "camserve")


@pytest.fixture(scope="module")
def names(sources, tmp_path_factory):
    """The files of the wheel."""
    with zipfile.ZipFile(build_package("wheel", sources, tmp_path_factory.mktemp("wheel"))) as wheel:
        return set(wheel.namelist())


def test_the_wheel_holds_the_package_and_its_configuration(names):
    handler = ROOT / "handler"
    code = {path.relative_to(handler).as_posix() for path in handler.rglob("*.py")}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "config").rglob("*") if path.is_file()}
    page = {path.relative_to(handler).as_posix() for path in (handler / "camserve").glob("*/page/*")}
    carried = {name for name in names if ".dist-info/" not in name}
    assert carried == code | page | {f"camserve/{name}" for name in files} | {"camserve/py.typed"}
    assert {
        "gradcam_handler.py",
        "camserve/config/config.properties",
        "camserve/config/monitoring/rules.yml",
    } <= carried


def test_the_sdist_builds_the_same_wheel(sources, names, tmp_path):
    sdist = build_package("sdist", sources, tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    with zipfile.ZipFile(build_package("wheel", unpacked, tmp_path)) as wheel:
        assert set(wheel.namelist()) == names
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"} <= {path.name for path in unpacked.iterdir()}


@pytest.mark.server
def test_an_editable_installation_finds_the_configuration_of_its_clone(sources, tmp_path):
    environment = Environment(tmp_path / "venv")
    environment.share_packages()
    environment.install("--no-deps", "--no-build-isolation", "--ignore-installed", "-e", sources)
    assert environment.package_folder(tmp_path) == sources / "handler" / "camserve"
    shown = Path(environment.camserve("config", cwd=tmp_path).stdout.strip())
    assert shown.resolve() == sources / "config"
    assert environment.camserve("doctor", "--config", shown / "config.properties", cwd=tmp_path).returncode == 0


def test_the_package_finds_the_configuration_of_this_clone():
    assert CONFIG_FOLDER.resolve() == Path(camserve.__file__).resolve().parents[2] / "config"
