"""Exported programs (torch.export, .pt2) read as data: operators of torch and numbers, and no code.

``torch.export.load`` unpickles or evaluates parts of its file: tensors of other classes, objects, sample inputs, names,
symbolic sizes, guards; and a node may call what is no operator. So each part is checked here, and torch reads a copy
that holds the checked parts alone.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from camserve.errors import ConfigError, quote

ALLOWED = "a program may hold tensors and torch's operators alone"
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # read by every torch.load

GRAPHS = re.compile(r"(?:[^/]+/models/model|serialized_exported_program)\.json")
CONFIGS = re.compile(r"[^/]+/data/(?:weights|constants)/model_(?:weights|constants)_config\.json")
TENSORS = re.compile(
    r"[^/]+/(?:archive_format|archive_version|byteorder|version|\.data/\w+|data/weights/(?:weight_\d+|model\.pt)"
    r"|data/constants/(?:tensor_\d+|model\.pt)|data/sample_inputs/model\.pt)"
    r"|version|serialized_(?:state_dict|constants|example_inputs)\.pt"
)
NATIVE = "/aotinductor/"  # which torch.export.load would load, too
ZIP_START = b"PK\x03\x04"
PAYLOAD = re.compile(r"(?:weight|tensor)_\d+")

OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims)\.(?!__|(?:save|from_file)\.)\w+\.(?!__)\w+"
    r"|torch\.(?:ops\.higher_order|_higher_order_ops\.\w+)\.(?:wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|torch\._?sym_[a-z]+|math\.[a-z0-9]+"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)",
    re.ASCII,
)
IDENTIFIER = re.compile(r"[A-Za-z_]\w*|", re.ASCII)
PLAIN = re.compile(r"[\w.:/@+ -]*", re.ASCII)  # may stand in quotes in the Python that torch writes of a graph
SYMBOLIC = re.compile(r"(?:'[a-z]+\d+'|[A-Za-z]\w*\b|\d+(?:\.\d+)?\b|[-+*/%<>=!&|~(), ])*", re.ASCII)
SIZE_OF_INPUT = re.compile(r"L(?:\['\w+'\]|\[\d+\])+(?:\.(?:size|stride)\(\)\[\d+\]|\.storage_offset\(\))?", re.ASCII)
WORDS_OF_GUARDS = re.compile(r"\b(?:and|or|not|torch\._?sym_[a-z]+|math\.[a-z]+)\b")
# Names in symbolic sizes: symbols, sympy's functions and torch's.
SYMPY = re.compile(
    r"[a-z]{1,4}\d+|"
    r"Symbol|positive|integer|nonnegative|real|finite|Integer|Float|Rational|precision|Add|Mul|Pow|Max|Min|Abs"
    r"|Mod|floor|ceiling|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan"
    r"|GreaterThan|And|Or|Not|Piecewise|ExprCondPair|oo|int_oo|true|false|True|False|FloorDiv|ModularIndexing"
    r"|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv"
    r"|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity"
    r"|IsNonOverlappingAndDenseIndicator"
)
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
WITH_METADATA = ("graph_module", "nodes")  # which says where in which source a node came from
FREE = ("as_string", "as_strings")  # under "arg": arguments of operators, which torch quotes


def read_program(path: Path) -> Any:
    """Return the ExportedProgram in a .pt2, of which nothing was run: tensors alone are unpickled.

    ConfigError: it holds more than operators and numbers. What zipfile, json or torch raise: it is no program of this
    torch.
    """
    try:
        checked = _checked_copy(path)
        with _never_unpickle():
            return torch.export.load(checked)
    except ConfigError as error:
        raise ConfigError(f"{path.name} is refused, as it may run code: {error}; {ALLOWED}") from None
    except pickle.UnpicklingError:
        raise ConfigError(f"{path.name} is refused, as it may run code: pickled objects; {ALLOWED}") from None


@contextmanager
def _never_unpickle() -> Iterator[None]:
    """Make every ``torch.load`` one with ``weights_only``, also those where torch's own code says otherwise."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = before


def _checked_copy(path: Path) -> io.BytesIO:
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        entries = source.infolist()
        _require(len({entry.filename for entry in entries}) == len(entries), "repeated member in", path.name)
        _require(sum(entry.file_size for entry in entries) <= path.stat().st_size, "compressed file", path.name)
        for entry in entries:
            content = _checked_member(entry.filename, source)
            if content is not None:
                target.writestr(zipfile.ZipInfo(entry.filename), content)
    copy.seek(0)
    return copy


def _checked_member(name: str, source: zipfile.ZipFile) -> bytes | None:
    """Return what torch may read in the place of a member; None: nothing, since no program needs it."""
    _require(NATIVE not in name, "native code", name)
    if GRAPHS.fullmatch(name):
        return json.dumps(_checked(json.loads(source.read(name)))).encode()
    if CONFIGS.fullmatch(name):
        return json.dumps(_checked_config(json.loads(source.read(name)))).encode()
    if not TENSORS.fullmatch(name):
        return None
    content = source.read(name)
    # Before torch 2.6 weights_only did not hold for the old tar form (CVE-2025-32434).
    _require(not name.endswith(".pt") or content[:4] in (b"", ZIP_START), "old file", name)
    return content


def _checked_config(block: Any) -> Any:
    """Check which files hold the tensors. ConfigError: one holds a Python object."""
    for name, entry in block["config"].items():
        _require(entry["use_pickle"] is False and PAYLOAD.fullmatch(entry["path_name"]), "pickled object", name)
    return _checked(block)


def _checked(value: Any, key: str = "", above: str = "") -> Any:
    """Return a part of a graph without metadata; it stands under ``key``, and that under ``above``.

    ConfigError: torch might run it.
    """
    if isinstance(value, dict):
        parts = {**value, "metadata": {}} if key in WITH_METADATA and "metadata" in value else value
        return {_plain(name): _checked(part, name, key) for name, part in parts.items()}
    if isinstance(value, list):
        return [_checked(part, key, above) for part in value]
    if isinstance(value, str):
        _check_text(value, key, above)
    return value


def _check_text(text: str, key: str, above: str) -> None:
    if key in ("target", "as_operator"):
        _require(OPERATOR.fullmatch(text), "operator", text)
    elif key == "expr_str":
        _check_expression(text)
    elif key == "guards_code":
        _check_expression(WORDS_OF_GUARDS.sub("Max", SIZE_OF_INPUT.sub("s0", text)))
    elif key in ("in_spec", "out_spec"):
        _check_structure(json.loads(text)[1], key)
    elif key in ("name", "as_name", "forward_arg_names"):
        _require(IDENTIFIER.fullmatch(text), "name", text)
    elif key not in FREE or above != "arg":
        _plain(text)


def _plain(text: str) -> str:
    _require(PLAIN.fullmatch(text), "text", text)
    return text


def _check_expression(text: str) -> None:
    """Refuse a size that is no arithmetic: torch evaluates it as Python."""
    words = re.findall(r"[A-Za-z]\w*", text)
    _require(SYMBOLIC.fullmatch(text) and all(map(SYMPY.fullmatch, words)), "size", text)


def _check_structure(block: Any, key: str) -> None:
    """Refuse inputs or outputs in other containers than tuples, lists and mappings of names."""
    _require(block["type"] in CONTAINERS, "container", block["type"])
    context = block["context"]
    names = json.loads(context) if isinstance(context, str) else context
    for name in names or ():
        _require(isinstance(name, str) and (IDENTIFIER if key == "in_spec" else PLAIN).fullmatch(name), "key", name)
    for child in block["children_spec"]:
        _check_structure(child, key)


def _require(holds: object, what: str, text: object) -> None:
    if not holds:
        raise ConfigError(f"{what} {quote(text)}")
