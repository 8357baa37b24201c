"""Tokens of clients in a folder that somebody else keeps, such as a mounted Kubernetes Secret: one file, one token."""

from __future__ import annotations

import re
from pathlib import Path

from camserve.errors import ConfigError, quote
from camserve.values import Progress

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")  # as config/proxy/nginx.conf takes it


class ClientTokens:
    """The tokens in the files of a folder, which may change at any time."""

    def __init__(self, folder: Path, report: Progress) -> None:
        """Read the folder once. ConfigError: it cannot be read, or a file holds no token."""
        self._folder = folder
        self._report = report
        self._refused: set[str] = set()  # names of files, as last reported
        try:
            self._tokens, refused = _read(folder)
        except OSError as error:
            raise ConfigError(f"--clients: cannot read {folder}: {error.strerror}") from None
        if refused:
            raise ConfigError(_describe(folder, refused))

    def read(self) -> set[str]:
        """Return the tokens as they are now; those of the last call while the folder cannot be read."""
        try:
            self._tokens, refused = _read(self._folder)
        except OSError:
            return self._tokens
        if refused - self._refused:
            self._report(_describe(self._folder, refused))
        self._refused = refused
        return self._tokens


def _read(folder: Path) -> tuple[set[str], set[str]]:
    """Return the tokens, and the names of files that hold none."""
    # Kubernetes keeps hidden names (..data) for itself.
    files = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    texts = {path.name: path.read_text(encoding="utf-8", errors="replace").strip() for path in files}
    refused = {name for name, text in texts.items() if not TOKEN.fullmatch(text)}
    return {text for name, text in texts.items() if name not in refused}, refused


def _describe(folder: Path, names: set[str]) -> str:
    shown = ", ".join(quote(name) for name in sorted(names))
    return f"--clients: {shown} in {folder} must hold one token of 16 to 128 letters, digits, '_' and '-'"
