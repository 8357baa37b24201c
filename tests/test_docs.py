"""What the documents list is what the tables hold."""

import re
from importlib import import_module
from pathlib import Path

from camserve import errors
from camserve.attribution.methods import METHODS
from camserve.cli.command import COMMANDS
from camserve.intake.options import PARSERS

ROOT = Path(__file__).parents[1]
ANSWERS = (ROOT / "docs" / "answers.md").read_text()
README = (ROOT / "README.md").read_text()


def test_every_warning_code_is_documented_and_no_other():
    sources = "".join(path.read_text() for path in (ROOT / "handler" / "camserve").rglob("*.py"))
    raised = set(re.findall(r'AnswerWarning\(\s*"([A-Z_]+)"', sources))
    assert raised == set(re.findall(r"^\| `([A-Z_]+)` \|", ANSWERS, re.MULTILINE))


def test_every_error_code_is_documented():
    for error in errors.RequestError.__subclasses__():
        line = next(line for line in ANSWERS.splitlines() if line.startswith(f"| {error.status} |"))
        assert f"`{error.code}`" in line


def test_every_method_and_option_is_documented():
    for name in METHODS:
        assert f"| `{name}` |" in ANSWERS
    for name in PARSERS:
        assert re.search(rf"^\| .*`{name}`.* \|", README, re.MULTILINE), name


def test_every_command_shows_an_example():
    assert all(f"camserve {name}" in import_module(f"camserve.cli.{name}").EXAMPLE for name in COMMANDS)


def test_local_links_lead_somewhere():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
