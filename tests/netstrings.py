"""Netstrings as others make them: what clients of QMTP and QMQP send, and what they hear."""

from __future__ import annotations

import re

_HEAD = re.compile(rb"(0|[1-9][0-9]*):")
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


def split(data: bytes) -> list[bytes]:
    """All of this is netstrings, in strict form: their contents."""
    found = []
    place = 0
    while place < len(data):
        head = _HEAD.match(data, place)
        assert head, data[place : place + 99]
        end = head.end() + int(head[1])
        found.append(data[head.end() : end])
        assert data[end : end + 1] == b",", data[end : end + 99]
        place = end + 1
    return found


def verdicts(out: bytes) -> list[bytes]:
    """What a server has said, with time and process id masked; nothing is left over."""
    return [re.sub(rb"\AKok \d+ qp \d+\Z", b"Kok", text) for text in split(out)]
