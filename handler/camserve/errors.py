"""Every error that camserve raises on purpose, with the HTTP status and code of its answer.

CamserveError
|-- ConfigError              an operator's mistake: settings, archive, command line
|-- CompilationUnavailable   no compiled trunk on this machine; the network runs eager
|-- OutOfTime                an explanation took too long; the prediction stands
|-- ServerUnreachable        no answer came back to a client
|-- UnexpectedAnswer         what came back to a client is not camserve's
`-- RequestError             one row's fault; its neighbours never notice
    |-- MissingImage   400   |-- TooManyBytes       413
    |-- BadBase64      400   |-- TooManyPixels      413
    |-- BadImage       400   |-- TooMuchWork        413
    |-- BadOption      400   |-- UnsupportedFormat  415
    |-- BadJson        400   |-- ImageTooSmall      422
    |-- BadEncoding    400   |-- ModelFailed        500
    `-- UnknownClass   400   |-- InternalError      500
                             |-- Overloaded         503
                             `-- OutOfMemory        507
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

LINE_LIMIT = 200  # characters of another library's message that an error of ours repeats
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # torch underlines its advice
QUOTE_LIMIT = 80  # characters of a caller's own text that an answer or a log may repeat
# What libraries say of a connection that fails, and the next step.
SILENCE = (
    ("UnsupportedProtocol|InvalidURL|Invalid URL", "write the whole address, such as http://127.0.0.1:8080"),
    ("name resolution|gaierror|Name or service", "no machine is known by this name"),
    ("idna", "this is no name of a machine: between its dots are 1 to 63 characters"),
    ("refused|Refused", "the connection is refused: start the server, or name the port that it listens on"),
    ("SSL", "no secure connection: a server without a certificate of its own is at http://"),
    ("[Tt]ime(d )?out", "it takes too long: the machine or the server is busy, or a firewall keeps the port"),
    ("disconnected|reset|aborted", "the connection was cut: another program may listen on this port"),
)


class CamserveError(Exception):
    """Base of every error that camserve raises on purpose."""


class ConfigError(CamserveError):
    """What an operator wrote cannot work; the message names the key, the value and the way out."""


class CompilationUnavailable(CamserveError):
    """The network cannot be compiled, or its compiled form cannot run, on this machine."""


class OutOfTime(CamserveError):
    """An explanation has used up its time."""


class ServerUnreachable(CamserveError):
    """A client got no answer: nothing listens, or it took too long."""


class UnexpectedAnswer(CamserveError):
    """A client got an answer that is not camserve's."""


class RequestError(CamserveError):
    """One row cannot be answered; the class holds its HTTP status and its stable code.

    To a client, one that is this class itself comes from TorchServe or a proxy, which have codes of their own.
    """

    status = 400
    code = "bad_request"
    request_id = ""  # known to clients


class MissingImage(RequestError):
    """No image arrived."""

    code = "missing_image"


class BadBase64(RequestError):
    """A text that should be base64 is not."""

    code = "bad_base64"


class BadImage(RequestError):
    """The bytes are a truncated or corrupt picture."""

    code = "bad_image"


class BadOption(RequestError):
    """An option's name or value is not one of the valid ones."""

    code = "bad_option"


class BadJson(RequestError):
    """The body claims to be JSON and is not, or is not of a known shape."""

    code = "bad_json"


class BadEncoding(RequestError):
    """The body is not packed as its Content-Encoding says, or in a way that is not known."""

    code = "bad_encoding"


class UnknownClass(RequestError):
    """A class index or label does not exist or is ambiguous."""

    code = "unknown_class"


class TooManyBytes(RequestError):
    """The encoded picture is larger than the limit."""

    status = 413
    code = "too_many_bytes"


class TooManyPixels(RequestError):
    """The decoded picture would be larger than the limit."""

    status = 413
    code = "too_many_pixels"


class TooMuchWork(RequestError):
    """A body, or a row, asks for more than one may; less of it can be asked for."""

    status = 413
    code = "too_much_work"


class UnsupportedFormat(RequestError):
    """The bytes are not of an accepted picture format."""

    status = 415
    code = "unsupported_format"


class ImageTooSmall(RequestError):
    """The picture has too few pixels for the model."""

    status = 422
    code = "image_too_small"


class ModelFailed(RequestError):
    """The model raised, or gave scores that are not finite, for this row alone."""

    status = 500
    code = "model_failed"


class InternalError(RequestError):
    """A fault of camserve's own."""

    status = 500
    code = "internal_error"


class Overloaded(RequestError):
    """The time of the batch was over before the row's turn came; the same request may find room later."""

    status = 503
    code = "overloaded"


class OutOfMemory(RequestError):
    """The row does not fit into memory even alone."""

    status = 507
    code = "out_of_memory"


def quote(text: object) -> str:
    """Show a caller's own text safely: printable ASCII, at most 80 characters, in quotes."""
    shown = str(text)
    cut = shown[:QUOTE_LIMIT].encode("ascii", "backslashreplace").decode("ascii")
    safe = "".join(char if char.isprintable() else repr(char)[1:-1] for char in cut)
    return f"'{safe[:QUOTE_LIMIT]}{'...' if len(shown) > QUOTE_LIMIT or len(safe) > QUOTE_LIMIT else ''}'"


def printable(text: object) -> str:
    """Return a text of anybody's as a terminal may show it: line breaks and control characters are written out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without terminal codes, at most 200 characters."""
    return TERMINAL_CODE.sub("", str(error)).strip().partition("\n")[0][:LINE_LIMIT]


def describe_silence(url: str, error: Exception) -> str:
    """Return one line that says why nothing answers at an address, and what to do."""
    found = f"{type(error).__name__} {error}"
    reasons = (reason for pattern, reason in SILENCE if re.search(pattern, found))
    return f"nothing answers at {quote(url)[1:-1]}: {next(reasons, first_line(error) or type(error).__name__)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the known name nearest to ``name``, or nothing."""
    found = difflib.get_close_matches(name[:QUOTE_LIMIT], list(known), n=1)
    return f"; did you mean {quote(found[0])}?" if found else ""


def unknown_choice(name: object, known: Iterable[str], what: str) -> str:
    """Return the message that refuses a name which is not in a table."""
    choices = [str(choice) for choice in known]
    return f"{what} {quote(name)} is not one of: {', '.join(choices)}{nearest(str(name), choices)}"


def choose(table: Mapping[str, Value], name: object, what: str) -> Value:
    """Look ``name`` up in ``table``; a wrong name is answered with the right ones (BadOption)."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise BadOption(unknown_choice(name, table, what))
