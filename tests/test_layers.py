"""The house holds: an import goes to a lower floor or stays inside its own folder."""

import ast
import re
import sys
from collections import defaultdict
from configparser import ConfigParser
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from camserve.build.archive import SERVED

SOURCE = Path(__file__).parents[1] / "handler"
FLOORS = [
    "errors warning_codes choices",
    "values strict files labels",
    "input_spec output_spec measures",
    "settings answer",
    "intake network monitor viewer",
    "attribution client",
    "fast drift",
    "serving operate",
    "build",
    "bench bulk asgi explainer evaluate card",
    "cli gradcam_handler",
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
SERVED_MAY_IMPORT = {"torch", "numpy", "PIL", "yaml", "camserve"}
MOST_LINES = 250
# Names that several modules share: the two halves of a command, what every kind of source and every engine is asked,
# and what a client reads of an answer, by the words of the answer.
SHARED_NAMES = {"add_options", "run", "fits", "describe", "serve", "Answer", "Explanation", "Prediction", "Target"}
MARKED = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.server\b", re.MULTILINE)

FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent.name != "camserve" or path.stem != "__init__")


def room_of(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0] if len(parts) == 1 else parts[1]


@cache
def tree(path):
    return ast.parse(path.read_text())


@cache
def imports(path):
    names = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names.append(node.module)
    return names


def test_every_room_has_a_floor_and_every_served_name_is_a_room():
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)
    assert set(SERVED) < set(FLOOR_OF)


def test_an_import_points_down_or_stays_inside_its_folder():
    upward = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in FILES
        for name in imports(path)
        for package, room in [[*name.split("."), ""][:2]]
        if package == "camserve" and room and room != room_of(path) and FLOOR_OF[room] >= FLOOR_OF[room_of(path)]
    ]
    assert upward == []


def test_served_code_imports_what_a_stock_server_has_and_nothing_that_stays_at_home():
    foreign = {
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in FILES
        if room_of(path) in SERVED
        for name in imports(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, *SERVED_MAY_IMPORT}
        or (name.startswith("camserve.") and name.split(".")[1] not in SERVED)
    }
    assert foreign == set()


def as_pip(distribution):
    """Write a distribution's name as pip compares it."""
    return distribution.lower().replace("_", "-")


def test_everything_that_is_imported_is_declared():
    settings = ConfigParser()
    settings.read(SOURCE.parent / "setup.cfg")
    extras = settings["options.extras_require"]
    declared = "\n".join([settings["options"]["install_requires"], *extras.values()]).splitlines()
    packages = {as_pip(re.split(r"[=<>\[]", line.strip())[0]) for line in declared if line.strip()}
    providers = packages_distributions()
    names = {name.partition(".")[0] for path in FILES for name in imports(path)}
    for name in sorted(names - {*sys.stdlib_module_names, "camserve"}):
        assert set(map(as_pip, providers.get(name, [name]))) & packages, name


def test_members_of_a_table_folder_do_not_import_the_table():
    circular = [
        f"{path.relative_to(SOURCE)}"
        for path in FILES
        if path.stem != "__init__" and ".".join(path.parent.relative_to(SOURCE).parts) in imports(path)
    ]
    assert circular == []


def test_no_file_is_too_long_to_be_read_at_once():
    long = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_no_name_means_two_things():
    homes = defaultdict(list)
    for path in FILES:
        for node in tree(path).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name[0] != "_":
                homes[node.name].append(str(path.relative_to(SOURCE)))
    assert {name for name, paths in homes.items() if len(paths) > 1} == SHARED_NAMES


def test_no_folder_of_tests_is_passed_over(pytestconfig):
    folders = {path.parent for path in Path(__file__).parent.rglob("test_*.py")}
    patterns = pytestconfig.getini("norecursedirs")
    assert [folder.name for folder in folders if any(fnmatch(folder.name, pattern) for pattern in patterns)] == []


def test_every_file_of_live_servers_bears_their_marker():
    """Without it a run of the other tests would pass the file over unseen."""
    files = {path: path.read_text() for path in (Path(__file__).parent / "server").glob("test_*.py")}
    assert files
    assert [path.name for path, text in files.items() if not MARKED.search(text)] == []
