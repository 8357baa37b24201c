"""Shells complete commands, options and files."""

import os
import pty
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from camserve.cli import main
from camserve.cli.command import COMMANDS


@pytest.fixture(scope="module")
def write_script(tmp_path_factory):
    def write_script(shell):
        path = tmp_path_factory.mktemp(shell) / "_camserve"
        with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
            patch.setattr("sys.stdout", file)
            assert main(["completion", shell]) == 0
        return path

    return write_script


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed: apt-get install {shell}")


@pytest.fixture(scope="module")
def script(write_script):
    return write_script("bash")


@needs("bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["camserve", ""], set(COMMANDS)),
        (["camserve", "conf"], {"config", "configure"}),
        (["camserve", "doctor", "--f"], {"--front"}),
        (["camserve", "archive", "--task", "multi"], {"multiclass", "multilabel"}),
        (["camserve", "inspect", "pe"], {"pets.mar"}),
    ],
)
def test_bash_completes(script, typed, offered, tmp_path):
    (tmp_path / "pets.mar").touch()
    words = " ".join(f"'{word}'" for word in typed)
    lines = f"""
source '{script}'
COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
function_name=$(complete -p camserve | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function_name camserve '{typed[-1]}' '{typed[-2]}'
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", lines], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert offered <= {word.strip() for word in done.stdout.splitlines()}, done.stderr


@needs("fish")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("camserve ", set(COMMANDS)),
        ("camserve conf", {"config", "configure"}),
        ("camserve doctor --f", {"--front"}),
        ("camserve archive --task multi", {"multiclass", "multilabel"}),
        ("camserve inspect pe", {"pets.mar"}),
    ],
)
def test_fish_completes(write_script, typed, offered, tmp_path):
    (tmp_path / "pets.mar").touch()
    lines = f"source {write_script('fish')}; complete -C '{typed}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", lines],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert offered <= {line.split("\t")[0] for line in done.stdout.splitlines()}, done.stderr


@needs("zsh")
def test_zsh_completes(write_script, tmp_path):
    """In a terminal: zsh completes nowhere else."""
    (tmp_path / "pets.mar").touch()
    lines = {
        "camserve docto\t": "camserve doctor",
        "camserve doctor --fr\t": "camserve doctor --front",
        "camserve archive --task multic\t": "camserve archive --task multiclass",
        "camserve inspect pe\t": "camserve inspect pets.mar",
    }
    begin = f"fpath=({write_script('zsh').parent} $fpath); autoload -Uz compinit; compinit -u -D; unsetopt beep"
    with zsh(tmp_path) as ask:
        ask(f"{begin}; camserve() {{ print -r -- GOT camserve $* }}; print GOT re''ady", "GOT ready")
        for typed, completed in lines.items():
            ask(typed, f"GOT {completed}\r")


@contextmanager
def zsh(folder):
    """Run an interactive zsh in a terminal of its own."""
    parent, child = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb"}
    command = ["zsh", "-f", "-i"]
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, cwd=folder, env=environment, start_new_session=True
    ) as shell:
        os.close(child)

        def ask(typed, wanted):
            os.write(parent, f"{typed}\n".encode())
            shown, end = "", time.monotonic() + 60
            while wanted not in shown:
                assert time.monotonic() < end, shown
                if select.select([parent], [], [], 1)[0]:
                    shown += os.read(parent, 4096).decode(errors="replace")

        try:
            yield ask
        finally:
            shell.kill()
            os.close(parent)


def test_tcsh_gets_a_script_too(capsys):
    assert main(["completion", "tcsh"]) == 0
    assert "configure" in capsys.readouterr().out
