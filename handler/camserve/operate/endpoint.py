"""An address that answers requests, and the token that it wants."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """One HTTP side of a server and its token."""

    url: str
    token: str  # empty: none is wanted

    @property
    def headers(self) -> dict[str, str]:
        """The header that lets a request in; none where no token is wanted, since httpx sends no empty one."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def curl_line(side: Endpoint, model: str, photo: str, *options: str) -> str:
    """Return a curl command that works as it stands."""
    words = [f"curl -H 'Authorization: Bearer {side.token}'", *options, f"-T {photo}"]
    return " ".join([*words, f"{side.url}/predictions/{model}"])


def browser_line(side: Endpoint, model: str) -> str:
    """Return where the page for browsers is, of a side that gives it to those without a token too."""
    return f"in a browser: {side.url}/predictions/{model}, which asks for the token"
