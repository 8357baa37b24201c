"""The house holds: an import goes to a lower floor or stays inside its own folder."""

import ast
import sys
from pathlib import Path

import pytest

from camserve.build.archive import SERVED

SOURCE = Path(__file__).parents[1] / "handler"
FLOORS = [
    "errors warning_codes choices",
    "values strict files labels",
    "settings",
    "intake answer network",
    "attribution monitor",
    "fast drift",
    "serving operate",
    "build",
    "bench",
    "cli gradcam_handler",
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
# Imports that the plan takes out next.
STILL_UP = {("attribution", "fast"), ("network", "fast"), ("network", "attribution")}
SERVED_MAY_IMPORT = {"torch", "numpy", "PIL", "yaml", "camserve"}

FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent.name != "camserve" or path.stem != "__init__")


def room_of(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0] if len(parts) == 1 else parts[1]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_an_import_points_down_or_stays_inside_its_folder(path):
    room = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "camserve" and len(parts) > 1 and parts[1] != room and (room, parts[1]) not in STILL_UP:
            assert FLOOR_OF[parts[1]] < FLOOR_OF[room], f"{room} imports {parts[1]}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if room_of(p) in SERVED], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_served_code_imports_what_a_stock_server_has(path):
    outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
    assert outside <= SERVED_MAY_IMPORT


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)


def test_every_served_name_is_a_room():
    assert set(SERVED) < set(FLOOR_OF)
