"""The command line imports what the chosen command needs, and says what to install where that is missing."""

import ast
import json
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from PIL import Image

import camserve
from camserve.build.locate import find_file
from camserve.cli import main
from camserve.cli.command import COMMANDS, build_parser, missing_extra
from camserve.operate.shipped import CONFIG_FOLDER
from model_file import write_pets

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"  # nothing listens there
# Command lines that must run without torch.
LIGHT = [
    ["--version"],
    ["--help"],
    ["explain", "--help"],
    ["explain", "photo.jpg", "--url", NOBODY],
    ["doctor", "--url", NOBODY],
    ["doctor", "--config", str(CONFIG_FOLDER / "config.properties")],
    ["inspect", "photo.jpg"],
    ["configure", "--help"],
    ["configure", "photo.jpg"],
    ["metrics", str(CONFIG_FOLDER / "metrics.yaml")],
    ["config"],
    ["serve", "no.mar"],
    ["audit", "score", ".", "--labels", "truth.csv"],
    ["watch", "--metrics-url", NOBODY, "--once"],
    ["calibrate", "--metrics-url", NOBODY],
    ["report", "no.jsonl", "--baseline", "no.mar"],
]


@pytest.fixture
def settings():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def run_python(script, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_light_commands_import_no_torch(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    script = """
import contextlib, io, json, sys
import camserve.cli
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        camserve.cli.main(arguments)
    assert "torch" not in sys.modules, arguments
"""
    done = run_python(script, json.dumps(LIGHT), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_command_line_imports_no_subcommand(tmp_path):
    script = "import sys, camserve.cli; print([name for name in sys.modules if name.startswith('camserve')])"
    done = run_python(script, cwd=tmp_path)
    names = ["camserve", "camserve.cli", "camserve.cli.command", "camserve.cli.terminal", "camserve.errors"]
    assert sorted(ast.literal_eval(done.stdout)) == names


def test_a_command_that_needs_more_says_so_in_one_line(tmp_path):
    script = "import sys; sys.modules['torch'] = None; from camserve.cli import main; sys.exit(main(sys.argv[1:]))"
    for name in ("archive", "baseline", "bench"):
        extra = COMMANDS[name].extra
        done = run_python(script, name, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr == f"camserve {name} needs torch: pip install 'camserve[{extra}]'\n"
    assert missing_extra("metrics", ModuleNotFoundError(name="yaml.loader")) == (
        "camserve metrics needs yaml: pip install 'camserve'"
    )


def test_what_reads_parquet_is_not_of_a_commands_own_extra():
    for name in ("baseline", "show", "report"):
        line = f"camserve {name} needs pyarrow: pip install 'camserve[bulk]'"
        assert missing_extra(name, ModuleNotFoundError(name="pyarrow.parquet")) == line


def test_a_missing_module_of_our_own_is_a_fault_and_no_advice():
    assert missing_extra("archive", ModuleNotFoundError(name="camserve.bulk")) is None


def test_the_extras_of_the_commands_exist(settings):
    assert {command.extra for command in COMMANDS.values()} - {""} <= set(settings["options.extras_require"])


def test_every_command_has_a_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"camserve {name}" in capsys.readouterr().out


def test_only_the_chosen_commands_options_are_known():
    assert build_parser("doctor").parse_args(["doctor", "--json"]).json
    with pytest.raises(SystemExit):
        build_parser("").parse_args(["doctor", "--json"])


def test_the_version_comes_from_one_place(settings, capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"{camserve.__version__}\n"
    assert settings["metadata"]["version"] == "attr: camserve.__version__"


def test_the_shipped_configuration_is_shown_and_copied(tmp_path, capsys):
    assert main(["config"]) == 0
    shown = Path(capsys.readouterr().out.strip())
    assert main(["config", "--out", str(tmp_path / "mine")]) == 0
    files = {path.relative_to(shown) for path in shown.rglob("*")}
    assert files == {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*")}
    assert Path("monitoring/rules.yml") in files
    assert main(["config", "--out", str(tmp_path / "mine")]) == 1
    assert "exists: name a new folder" in capsys.readouterr().err


@pytest.mark.usefixtures("one_process")
def test_the_commands_build_inspect_and_explain(tmp_path, capsys, monkeypatch):
    write_pets(tmp_path)
    monkeypatch.chdir(tmp_path)
    photo = str(find_file("package://skimage/data/chelsea.png"))
    (tmp_path / "geometry.yaml").write_text("resize: 64\ncrop: 64\n")
    flags = ["--factory", "Net", "--model-file", "net.py", "--weights", "net.pt", "--labels", "labels.txt"]
    assert main(["archive", "--name", "pets", *flags, "--sample", photo]) == 1
    assert "preprocess is missing: name that of the weights: imagenet, " in capsys.readouterr().err
    assert main(["archive", "--name", "pets", *flags, "--preprocess", "geometry.yaml", "--sample", photo]) == 0
    shown = "input 3 x 64 x 64, rgb, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, of pixels in 0..1"
    assert shown in capsys.readouterr().err
    assert main(["inspect", "model_store/pets.mar", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["needs"]) == ("pets 1.0", "TorchServe's stock image")
    assert main(["explain", photo, "--archive", "model_store/pets.mar", "--target", "dog", "--out", "why.png"]) == 0
    assert "dog" in capsys.readouterr().out
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert main(["explain", photo, "--archive", "model_store/pets.mar", "--target", "cow"]) == 1
    assert "no class is called 'cow'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["archive", "--name", "pets"])
    assert stopped.value.code == 2


@pytest.mark.usefixtures("one_process")
def test_out_of_archive_is_a_folder_or_the_archive_itself(tmp_path, capsys, monkeypatch):
    """It made a folder called pets.mar."""
    recipe = str(write_pets(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["archive", recipe, "--out", "out/pets.mar"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("wrote out/pets.mar (")
    assert Path("out/pets.mar").is_file()
    assert main(["archive", recipe, "--out", "out/dogs.mar"]) == 1
    assert (
        capsys.readouterr().err
        == "camserve: --out out/dogs.mar would be an archive of pets: write --out out/pets.mar\n"
    )
    Path("store").write_text("a file")
    assert main(["archive", recipe, "--out", "store"]) == 1
    assert capsys.readouterr().err == "camserve: --out store is a file: name the folder of pets.mar\n"


def test_a_token_may_begin_like_an_option(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    asked = ["explain", str(tmp_path / "a.png"), "--url", "http://127.0.0.1:9/predictions/pets"]
    assert main([*asked, "--token", "-lWN7KLwT8d_x"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*asked, "--token", "--json"])
    assert "--token: expected one argument" in capsys.readouterr().err
