"""Random changes by several milters in a row: the queue gets what a model of them says."""

from __future__ import annotations

import random
import re
from contextlib import ExitStack

import pytest
from harness import Home
from milters import ScriptedMilter, header, packet, raw

NAMES = [b"Subject", b"subject", b"X-A", b"x-a", b"From", b"X-New", b"Received"]
VALUES = [b"one", b"two\r\n folded", b"a\n\tb", b"", b" blank", b"\xc3\xbc: ;", b"Received: x"]
ADDRESSES = [b"x@ok.example", b"y@ok.example", b"z@far.example", b"a b@far.example"]
OURS = b"(ours)\n"


class Model:
    """The message, as lines of its header (with OURS among them), body and envelope."""

    def __init__(self, lines: list[bytes], body: bytes) -> None:
        self.lines = [OURS, *lines]
        self.body = body
        self.sender = b"a@b.example"
        self.recipients = [b"x@ok.example", b"y@ok.example"]

    def place(self, index: int, name: bytes) -> int | None:
        pattern = re.compile(re.escape(name) + rb"[ \t]*:", re.IGNORECASE)
        found = [n for n, line in enumerate(self.lines) if pattern.match(line)]
        index = max(index, 1)
        return found[index - 1] if index <= len(found) else None

    def text(self) -> bytes:
        return b"".join(self.lines) + b"\n" + self.body


def random_change(chance: random.Random, model: Model, space: bytes) -> bytes:
    """One packet; the model is changed as it says."""
    kind = chance.choice("hhiimmmm+2-eq")
    name, value = chance.choice(NAMES), chance.choice(VALUES)
    line = name + b":" + space + value.replace(b"\r\n", b"\n") + b"\n"
    index = chance.choice([0, 1, 1, 2, 3, 9, 2**32 - 1])
    address = chance.choice(ADDRESSES)
    box, _, domain = address.partition(b"@")
    said = b'<"%b"@%b>' % (box, domain) if b" " in box else b"<%b>" % address
    if kind == "h":
        model.lines.append(line)
        return packet(b"h", name, value)
    if kind == "i":
        model.lines.insert(index, line)
        return header(b"i", index, name, value)
    if kind == "m":
        place = model.place(index, name)
        if not value and place is not None:
            del model.lines[place]
        elif value and place is not None:
            model.lines[place] = line
        elif value:
            model.lines.append(line)
        return header(b"m", index, name, value)
    if kind == "-":
        if model.recipients == [address]:  # the last one: a discard, which others test
            return packet(b"-", b"<nobody@ok.example>")
        model.recipients = [one for one in model.recipients if one != address]
        return packet(b"-", said)
    if kind == "e":
        model.sender = address
        return packet(b"e", said)
    if kind == "q":
        model.lines.append(b"X-Quarantine: why\n")
        return packet(b"q", b"why")
    if address not in model.recipients:
        model.recipients.append(address)
    return packet(b"+", said) if kind == "+" else packet(b"2", said, b"NOTIFY=NEVER")


def random_changes(chance: random.Random, model: Model, space: bytes) -> bytes:
    changes = [random_change(chance, model, space) for _ in range(chance.randrange(6))]
    if chance.random() < 0.4:
        body = chance.choice([b"new\r\nbody\r\n", b"a\rb\n\r\n.\r\nend", b"", b"\r", b"x" * 70000])
        cut = chance.randrange(len(body) + 1)
        model.body = body.replace(b"\r\n", b"\n")
        model.body += b"" if model.body.endswith(b"\n") or not model.body else b"\n"
        changes.insert(chance.randrange(len(changes) + 1), raw(b"b", body[:cut]))
        changes.append(raw(b"b", body[cut:]))
    return b"".join(changes) + raw(b"c")


def shown(model: Model, space: bool) -> list[bytes]:
    lines = [line[:-1].partition(b":") for line in model.lines if line != OURS]
    return [
        name.rstrip() + b"\0" + (value if space else value.removeprefix(b" ")) + b"\0"
        for name, _, value in lines
    ]


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.sample(8)
def test_random_changes(home: Home, seed: int) -> None:
    chance = random.Random(seed)
    lines = [b"Subject: s\n", b"X-A:a\n  b\n", b"from : f\n", b"Subject:\n", b"Received: old\n"]
    lines = chance.sample(lines, chance.randrange(len(lines) + 1))
    model = Model(lines, chance.choice([b"", b"hello\n.\n", b"line\n" * 30000]))
    mail = b"".join(model.lines[1:]) + b"\n" + model.body
    with ExitStack() as stack:
        milters = []
        expected = []
        for _ in range(chance.randrange(1, 4)):
            space = chance.random() < 0.5
            expected.append((shown(model, space), model.body.replace(b"\n", b"\r\n")))
            answer = random_changes(chance, model, b"" if space else b" ")
            milter = ScriptedMilter({b"E": answer}, steps=0x100000 if space else 0)
            milters.append(stack.enter_context(milter))
        home.control("milters", *(f"{one.address} name=m{n}" for n, one in enumerate(milters)))
        stuffed = mail.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")
        run = home.run(
            b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\n"
            b"RCPT TO:<y@ok.example>\r\nDATA\r\n" + stuffed + b".\r\nQUIT\r\n"
        )
    assert run.codes[-2] == 250
    for milter, (fields, body) in zip(milters, expected, strict=True):
        assert milter.told(b"L") == fields
        assert b"".join(milter.told(b"B")) == body
    (message,) = home.messages()
    received = re.search(rb"^Received: from client.*\n(?:[ \t].*\n)*", message.text, re.MULTILINE)
    assert received is not None
    assert message.text.replace(received[0], OURS, 1) == model.text()
    assert (message.sender, message.recipients) == (model.sender, model.recipients)
