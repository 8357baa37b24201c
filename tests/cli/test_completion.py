"""Shells complete commands, options and files."""

import shutil
import subprocess

import pytest

from camserve.cli import main
from camserve.cli.command import COMMANDS


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("shell") / "camserve.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash")
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


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_the_other_shells_get_a_script_too(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "configure" in capsys.readouterr().out
