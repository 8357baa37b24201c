"""What is refused before a model is asked, in the words of the front (docs/operating.md)."""

from __future__ import annotations

import json
from types import MappingProxyType

from starlette.responses import Response

from camserve.choices import JSON_TYPE

STATUS_OF = MappingProxyType(
    {
        "bad_path": 400,
        "query_string": 400,
        "bad_request": 400,
        "no_token": 401,
        "no_such_route": 404,
        "no_such_model": 404,
        "wrong_method": 405,
        "too_many_bytes": 413,
        "internal_error": 500,
        "overloaded": 503,
        "no_answer": 504,
    }
)
MAY_RETRY = ("overloaded",)


class Refused(Exception):
    """A request that reaches no model."""

    def __init__(self, code: str, message: str) -> None:
        """Refuse with a code of ``STATUS_OF``."""
        super().__init__(message)
        self.code, self.message = code, message

    def response(self, request_id: str) -> Response:
        """Write the refusal in the shape of all errors."""
        error = {"code": self.code, "message": self.message, "request_id": request_id}
        headers = {"X-Request-Id": request_id}
        if self.code in MAY_RETRY:
            headers["Retry-After"] = "1"
        if self.code == "no_token":
            headers["WWW-Authenticate"] = "Bearer"
        return Response(json.dumps({"error": error}), STATUS_OF[self.code], headers, JSON_TYPE)
