"""What is known of one picture after it was asked about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from camserve.bulk.reading import Loaded
from camserve.bulk.sources import Photo
from camserve.errors import CamserveError
from camserve.monitor.audit_record import AuditRecord, read_record

Answer = dict[str, Any]


class RunStopped(CamserveError):
    """Nothing more can be asked: the options, the address or the server are at fault, and not one picture."""


@dataclass(frozen=True)
class Row:
    """One picture with its answer, or with the error that it has in its place."""

    photo: Photo
    answer: Answer | None = None
    error: Mapping[str, str] | None = None  # code and message
    record: AuditRecord | None = None  # what an audit log would hold; None: a server keeps its own

    def to_json(self) -> dict[str, Any]:
        """Return a line of answers.jsonl."""
        audit = None if self.record is None else self.record.to_json()
        return {**self.photo._asdict(), "error": self.error, "answer": self.answer, "audit": audit}


class Ask(Protocol):
    """Asks about pictures as they come."""

    def __call__(self, pictures: Iterable[Loaded]) -> Iterator[Row]:
        """Yield the row of every picture, in order. RunStopped: nothing more can be asked."""


def parse_row(block: Mapping[str, Any]) -> Row:
    """Read a line of answers.jsonl. LookupError, TypeError, ValueError: it is none."""
    audit = block["audit"]
    photo = Photo(block["path"], block["name"])
    return Row(photo, block["answer"], block["error"], None if audit is None else read_record(audit))


def refused(picture: Loaded, code: str = "", message: str = "") -> Row:
    """Return the row of a picture without an answer."""
    return Row(picture.photo, error={"code": code or picture.code, "message": message or picture.message})


def make_row(picture: Loaded, answer: Answer, record: AuditRecord | None = None) -> Row:
    """Return the row of a picture from a written answer, or from a refusal."""
    if "predictions" in answer:
        return Row(picture.photo, answer, record=record)
    refusal = answer["error"]
    return Row(picture.photo, error={name: refusal[name] for name in ("code", "message")}, record=record)


def warning_codes(answer: Answer, number: int) -> list[str]:
    """Return the codes of the warnings of one map of an answer, and of the answer as a whole."""
    return [warning["code"] for warning in answer["warnings"] if warning.get("explanation", number) == number]
