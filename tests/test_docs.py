"""What the documents list is what the tables hold."""

import ast
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest
import yaml

from camserve import choices, errors
from camserve.attribution.methods import METHODS
from camserve.build.recipe import HeadChoice
from camserve.cli.command import COMMANDS
from camserve.evaluate.frames import FLOORS
from camserve.evaluate.measures import MEASURES
from camserve.fast import SHORTCUTS
from camserve.input_spec import InputSpec
from camserve.intake.channel_option import read_channels
from camserve.intake.option_parsers import PARSERS
from camserve.output_spec import ACTIVATIONS, TASKS
from camserve.serving.engines.outputs import OUTPUTS as V2_OUTPUTS
from camserve.settings import Defaults, Limits

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "handler" / "camserve"
ANSWERS = (ROOT / "docs" / "answers.md").read_text()
OUTPUTS = (ROOT / "docs" / "outputs.md").read_text()
README = (ROOT / "README.md").read_text()
METHOD_ROW = r"^\| `([^`]+)` \|(.*)\|$"
WARNINGS = set(re.findall(r'AnswerWarning\(\s*"([A-Z_]+)"', (PACKAGE / "warning_codes.py").read_text()))
OFFERED = {
    "evidence": choices.EVIDENCE,
    "format": choices.FORMATS,
    "palette": choices.PALETTES,
    "compat": choices.COMPATS,
    "legend": ("false", "true"),
    "caption": ("false", "true"),
    "details": ("none", *choices.DETAILS, "all"),
}


def test_every_warning_code_is_documented_and_no_other():
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", ANSWERS, re.MULTILINE)) == WARNINGS


def test_every_warning_has_its_place_among_the_plain_words():
    page = (ROOT / "docs" / "reading-heatmaps.md").read_text()
    assert set(re.findall(r"^### `([A-Z_]+)`$", page, re.MULTILINE)) == WARNINGS
    for text in re.split(r"^### `[A-Z_]+`$", page, flags=re.MULTILINE)[1:]:
        assert len(text.split()) > 15
    for name in re.findall(r"\(reading/(\w+\.jpg)\)", page):
        assert (ROOT / "docs" / "reading" / name).stat().st_size < 60_000


def test_every_measure_is_documented_with_its_group():
    page = (ROOT / "docs" / "evaluating.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \| `(\w+)` \| [^|]* \| (more|less) \|$", page, re.MULTILINE)
    documented = {name: (group, better) for names, group, better in rows for name in re.findall("`(\\w+)`", names)}
    words = {1: "more", -1: "less"}
    assert documented == {name: (measure.group, words[measure.is_better]) for name, measure in MEASURES.items()}
    assert all(f"`{floor}`" in page for floor in FLOORS)


def test_every_warning_comes_from_one_file():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "warning_codes.py":
            tree = ast.walk(ast.parse(path.read_text()))
            written = {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
            assert not written & WARNINGS, f"{path.name} writes a code out"
            assert "AnswerWarning(" not in path.read_text(), f"{path.name} builds a warning"


def test_every_error_code_is_documented_and_no_other():
    rows = re.findall(r"^\| ([45]\d\d) \| (.*) \|$", ANSWERS, re.MULTILINE)
    documented = {(int(status), code) for status, codes in rows for code in re.findall("[a-z0-9_]+", codes)}
    assert documented == {(error.status, error.code) for error in errors.RequestError.__subclasses__()}


def test_every_error_that_is_documented_can_be_raised():
    sources = [path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "errors.py"]
    for error in errors.RequestError.__subclasses__():
        assert any(re.search(rf"\b{error.__name__}\b", source) for source in sources), error


def test_the_rules_know_which_codes_are_the_servers_fault():
    rules = (ROOT / "config" / "monitoring" / "rules.yml").read_text()
    named = [set(codes.split("|")) - {"ok"} for codes in re.findall(r'outcome[!=]~"([^"]+)"', rules)]
    assert len(named) == 3
    assert all(
        codes == {error.code for error in errors.RequestError.__subclasses__() if error.status >= 500}
        for codes in named
    )


def test_every_method_and_option_is_documented():
    for name in METHODS:
        assert f"| `{name}` |" in ANSWERS
    for name in PARSERS:
        assert re.search(rf"^\| .*`{name}`.* \|", README, re.MULTILINE), name


def test_the_page_of_methods_has_each_with_its_cost_and_what_was_measured():
    pages = [(ROOT / "docs" / name).read_text() for name in ("methods.md", "evidence.md")]
    rows, measured = (
        {
            name: [cell.strip() for cell in cells.split("|")]
            for name, cells in re.findall(METHOD_ROW, page, re.MULTILINE)
        }
        for page in (pages[0], pages[1].partition("## On what a map depends")[2].partition("\n## ")[0])
    )
    assert set(rows) == set(METHODS)
    for name, (_, passes, _, numbers) in rows.items():
        assert passes == METHODS[name].passes, name
        drawn = [cell.partition(" /")[0] for cell in measured.get(name, [])]
        assert numbers == " ".join(filter(None, drawn)), name


@pytest.mark.parametrize("option", OFFERED)
def test_the_words_of_an_option_are_documented_the_default_first(option):
    (row,) = re.findall(rf"^\| [^|]*`{option}`[^|]* \|(.*)\|$", README, re.MULTILINE)
    assert tuple(re.findall(r"`([^`]+)`", row))[: len(OFFERED[option])] == OFFERED[option]
    assert getattr(Defaults(), option, "none") == OFFERED[option][0]


def test_every_command_shows_an_example():
    assert all(f"camserve {name}" in import_module(f"camserve.cli.{name}").EXAMPLE for name in COMMANDS)


def test_lines_of_the_pages_for_clients_and_builders_are_short():
    assert max(len(line) for page in (ANSWERS, OUTPUTS) for line in page.splitlines()) <= 120


def test_local_links_lead_somewhere():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_documented_shortcuts_are_those_of_the_table():
    page = (ROOT / "docs" / "performance.md").read_text()
    head = "| shortcut | file | replaces | verified | names of torch | gain |"
    rows = [
        f"| {shortcut.name} | `fast/{shortcut.module}.py` | {shortcut.replaces} | {shortcut.verified} | "
        f"{'; '.join(f'`{name}`' for name in shortcut.private_names) or 'none'} | {shortcut.gain} |"
        for shortcut in SHORTCUTS
    ]
    assert "\n".join([head, "|---|---|---|---|---|---|", *rows]) in page
    for shortcut in SHORTCUTS:
        assert (PACKAGE / "fast" / f"{shortcut.module}.py").is_file()


def test_every_setting_of_the_input_is_documented():
    rows = re.findall(r"^\| (`[^|]*) \|", (ROOT / "docs" / "input.md").read_text(), re.MULTILINE)
    assert [name for row in rows for name in re.findall("`([a-z_]+)`", row)] == [
        field.name for field in fields(InputSpec)
    ]


def test_every_task_activation_and_key_of_the_output_is_documented():
    rows = re.findall(r"^\| (`[^|]*) \|", OUTPUTS, re.MULTILINE)
    named = {name.removeprefix("output.") for row in rows for name in re.findall("`([a-z_.]+)`", row)}
    keys = {field.name for field in fields(HeadChoice)} | {"heads", "score"}
    assert named == {*TASKS, *ACTIVATIONS, *keys}


def test_the_description_of_the_routes_has_the_words_of_the_code():
    schemas = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())["components"]["schemas"]
    options = schemas["Options"]["properties"]
    assert list(options) == list(PARSERS)
    for name in ("evidence", "palette", "compat"):
        assert tuple(options[name]["enum"]) == OFFERED[name]
    assert set(schemas["Code"]["enum"]) == {error.code for error in errors.RequestError.__subclasses__()}
    assert schemas["OutputName"]["enum"] == list(V2_OUTPUTS)
    assert options["top_k"]["maximum"] == Limits().max_top_k
    assert options["size"]["maximum"] == Limits().max_picture_side
    assert schemas["V1"]["properties"]["instances"]["maxItems"] == Limits().max_instances


@pytest.mark.parametrize("channels", [7, "7", "top:5", [3, 17], ["3", "17"]])
def test_the_description_takes_the_channels_that_a_request_may_name(channels):
    components = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())["components"]
    for name, body in (("Options", {}), ("One", {"data": ""}), ("V1", {"instances": [{"data": ""}]})):
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        jsonschema.validate({**body, "channels": channels}, schema)
        for wrong in (-1, 1.5, True, {}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({**body, "channels": wrong}, schema)
    assert read_channels(channels) is not None


def test_the_description_of_an_answer_has_the_fields_of_the_tables():
    schemas = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())["components"]["schemas"]
    for title, schema in (
        ("An answer", "WholeAnswer"),
        ("An explanation", "Explanation"),
        ("A prediction", "Prediction"),
    ):
        section = ANSWERS.partition(f"## {title}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
        documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
        assert sorted(schemas[schema]["properties"]) == sorted(documented)
