"""Every transcript, over a pipe and over a socket, in one piece and byte by byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import Home

FOLDER = Path(__file__).parent / "transcripts"
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def load() -> list[tuple[str, list[str]]]:
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        for section in re.split(r"(?m)^== ", path.read_text())[1:]:
            name, *lines = section.split("\n")
            found.append((f"{path.stem}: {name}", lines))
    return found


def unescape(text: str) -> bytes:
    raw = re.sub(
        rb"\\(?:x([0-9a-f]{2})|(.))",
        lambda m: bytes((int(m[1], 16),)) if m[1] else _ESCAPES[m[2]],
        text.encode(),
    )
    return re.sub(rb"(.)\*(\d+)", lambda m: m[1] * int(m[2]), raw)


TRANSCRIPTS = load()


@pytest.mark.parametrize("over", ["pipe", "socket"])
@pytest.mark.parametrize("dribble", [False, True], ids=["whole", "bytes"])
@pytest.mark.parametrize("lines", [t[1] for t in TRANSCRIPTS], ids=[t[0] for t in TRANSCRIPTS])
def test_transcript(home: Home, lines: list[str], over: str, dribble: bool) -> None:
    sent, replies, queued, stored, logged = b"", [], [], [], []
    environ: dict[str, str | None] = {}
    status = None
    for line in lines:
        word, _, rest = line.partition(" ")
        if not line or word == "#":
            continue
        if word in ("C:", "c:"):
            sent += unescape(rest) + (b"\r\n" if word == "C:" else b"")
        elif word == "S:":
            replies.append(unescape(rest))
        elif word == "control":
            name, _, content = rest.partition(": ")
            home.control(name, *(unescape(item) for item in content.split("|")))
        elif word == "env":
            name, equals, value = rest.partition("=")
            environ[name.lstrip("-")] = value if equals else None
        elif word == "queue:":
            environ["QMAILQUEUE"] = home.script(rest)
        elif word == "exit:":
            status = int(rest)
        elif word == "queued:":
            queued.append(unescape(rest))
        elif word == "stored:":
            stored.append(unescape(rest) + b"\n")
        elif word == "log:":
            logged.append(rest)
        else:
            raise AssertionError(f"what is {line!r}?")
    run = home.run(sent, over=over, dribble=dribble, **environ)
    assert run.lines == replies
    messages = home.messages()
    assert [m.sender + b" -> " + b" ".join(m.recipients) for m in messages] == queued
    if stored:
        assert messages[-1].body == b"".join(stored)
    for text in logged:
        assert text in run.log
    if status is None:
        status = 0 if replies[-1].startswith(b"221 ") else 1
    assert run.status == status
    assert run.children == []
    assert "trouble" not in run.log
