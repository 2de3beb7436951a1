"""Rspamd, as the side that asks: a message to /checkv2, and its answer in JSON.

Facts: "Rspamd HTTP protocol" in its documentation, and rspamd 3.4.
"""

from __future__ import annotations

from . import http
from .daemon import EARLY, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .daemon import Address

#: Bytes of its answer, with all symbols and what they have found.
LIMIT = 1 << 20
_NONSENSE = "talks nonsense"


class Verdict:
    """What it says of a message: the `action` to take, the `score` and from which on it rejects.

    `text` is for the client, or empty; `add` are header lines, as (name, value), and `remove`
    the names of those to remove, in lower case; `subject`, the new one, or empty;
    `signatures`, of DKIM.  All of it is as it was said, in UTF-8.
    """

    __slots__ = ("action", "score", "required", "text", "add", "remove", "subject", "signatures")

    def __init__(self, answer: dict[str, Any]) -> None:
        """Raises ValueError where something has not the form that it should have."""
        self.action = _text(answer["action"])
        self.score = _number(answer["score"])
        self.required = _number(answer["required_score"])
        messages = _dict(answer.get("messages", {}))
        self.text = _text(messages.get("smtp_message", ""))
        milter = _dict(answer.get("milter", {}))
        self.add = [
            (_text(name), _text(one["value"] if isinstance(one, dict) else one))
            for name, given in _dict(milter.get("add_headers", {})).items()
            for one in (given if isinstance(given, list) else [given])
        ]
        self.remove = {_text(name).lower() for name in _dict(milter.get("remove_headers", {}))}
        self.subject = _text(answer.get("subject", ""))
        signatures = answer.get("dkim-signature", [])
        self.signatures = [
            _text(one) for one in (signatures if isinstance(signatures, list) else [signatures])
        ]


def check(
    address: Address,
    seconds: float,
    size: int,
    header: Iterable[tuple[bytes, bytes]],
    message: Iterable[bytes],
) -> Verdict:
    """Its verdict on a message of so many bytes; `header` is what it is told of it.

    Raises NoAnswer or Shutdown.
    """
    lines = [*header, (b"Content-Length", b"%d" % size)]
    answer = http.ask(address, seconds, LIMIT, b"POST /checkv2", lines, _then_load(message))
    from json import loads

    try:
        # What it quotes of a message, in lines for the header, say, may be any bytes.
        said = _dict(loads(answer.body.decode("utf-8", "replace"), strict=False))
        if "error" in said or answer.status != 200:
            raise NoAnswer(f"says {answer.status} {said.get('error', '')!s:.100}")
        if answer.early:
            raise NoAnswer(EARLY)
        return Verdict(said)
    except (KeyError, ValueError, RecursionError) as error:
        if answer.status != 200:
            raise NoAnswer(f"says {answer.status}") from error
        raise NoAnswer(_NONSENSE) from error


def _then_load(message: Iterable[bytes]) -> Iterator[bytes]:
    """The message; and then, while it is scanned, load what costs a cold start milliseconds."""
    yield from message
    import json  # noqa: F401


def ping(address: Address, seconds: float) -> bytes:
    """What it calls itself.  Raises NoAnswer or Shutdown."""
    answer = http.ask(address, seconds, LIMIT, b"GET /ping")
    if answer.status != 200 or answer.body.strip() != b"pong":
        raise NoAnswer("is no rspamd")
    return answer.header.get(b"server", b"rspamd")


def _text(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("is no string")
    return value.encode("utf-8", "replace")


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not -1e9 < value < 1e9:
        raise ValueError("is no number")
    return float(value)


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("is no object")
    return value
