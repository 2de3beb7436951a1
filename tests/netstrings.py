"""Clients of QMTP and QMQP: what they send, and what they make of the answers."""

from __future__ import annotations

import re

MESSAGE = b"Subject: x\n\nhello\n"


def ns(text: bytes) -> bytes:
    """A netstring."""
    return str(len(text)).encode() + b":" + text + b","


def package(
    *recipients: bytes, sender: bytes = b"a@b.example", message: bytes = b"\n" + MESSAGE
) -> bytes:
    """A package of QMTP."""
    return ns(message) + ns(sender) + ns(b"".join(map(ns, recipients)))


def handed(*recipients: bytes, sender: bytes = b"a@b.example", message: bytes = MESSAGE) -> bytes:
    """A package of QMQP."""
    return ns(ns(message) + ns(sender) + b"".join(map(ns, recipients)))


def verdicts(out: bytes) -> list[bytes]:
    """What a server has said, with time and process id masked; nothing is left over."""
    found = []
    while out:
        head = re.match(rb"(0|[1-9][0-9]{0,5}):", out)
        assert head, out
        end = head.end() + int(head[1])
        found.append(re.sub(rb"\AKok \d+ qp \d+\Z", b"Kok", out[head.end() : end]))
        assert out[end : end + 1] == b",", out
        out = out[end + 1 :]
    return found
