"""What is attached to a message: a table of messages, hostile ones, and Python's own reader."""

from __future__ import annotations

import email
import encodings
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qsmtpd.session.message import BODY, HEADER, MessageStream
from qsmtpd.smtp import boundary, mime
from qsmtpd.smtp.encodedword import to_utf8
from qsmtpd.smtp.header import split_header
from qsmtpd.smtp.mime import MimeScanner

TABLE = Path(__file__).with_name("mime_messages.txt")


_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def unescape(text: str) -> bytes:
    """The bytes that a TEXT stands for."""
    return re.sub(
        rb"\\(?:x([0-9a-f]{2})|(.))",
        lambda m: bytes((int(m[1], 16),)) if m[1] else _ESCAPES[m[2]],
        text.encode(),
    )


class Begin:
    """A listener: the first characters of each part in base64, and how many parts there are."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def __call__(self, text: bytes) -> None:
        if not text:
            self.parts.append(b"")
        elif not self.parts:
            self.parts.append(text)
        else:
            self.parts[-1] += text


@dataclass
class Case:
    """A message of the table, and what is said of it."""

    title: str
    facts: list[tuple[str, bytes]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)

    def all(self, fact: str) -> list[bytes]:
        return [value for name, value in self.facts if name == fact]


@functools.cache
def cases() -> list[Case]:
    found: list[Case] = []
    for line in TABLE.read_text().splitlines():
        if line.startswith("== "):
            found.append(Case(line[3:]))
        elif found and line.startswith("|"):
            found[-1].lines.append(unescape(line[2:]))
        elif found and line and not line.startswith("#"):
            name, _, value = line.partition(": ")
            found[-1].facts.append((name, unescape(value)))
    return found


def scan(message: bytes, cut: Callable[[bytes], list[bytes]] = lambda body: [body]):  # type: ignore[no-untyped-def]
    """(the scanner, what its listener has heard) of a message that comes in these pieces."""
    stream = MessageStream()
    scanner: MimeScanner | None = None
    heard = Begin()
    for event, text in stream.feed(message, True):
        if event is HEADER:
            header, length = split_header(text)
            scanner = MimeScanner(header, length < len(text))
            scanner.listeners.append(heard)
            if length < len(text):
                scanner.feed(text[length:])
            gap = b"\n" if length == len(text) else b""
        elif event is BODY:
            assert scanner is not None
            for piece in cut(text.removeprefix(gap)):
                scanner.feed(piece)
    assert scanner is not None
    scanner.finish()
    return scanner, heard.parts


def bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


@pytest.mark.parametrize("batch", [mime.BATCH, 1])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_the_table(case: Case, ends: bytes, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece, and byte by byte; as the decoder gives it, and with CRs left over."""
    monkeypatch.setattr(mime, "BATCH", batch)
    head = case.lines.index(b"") if b"" in case.lines else len(case.lines)
    text = b"".join(line + b"\n" for line in case.lines[: head + 1])
    text += b"".join(line + ends for line in case.lines[head + 1 :])
    scanner, parts = scan(text, bytewise if batch == 1 else lambda body: [body])
    assert set(case.all("name")) <= scanner.names
    assert not set(case.all("not")) & scanner.names
    for number in case.all("names"):
        assert len(scanner.names) == int(number), scanner.names
    for number in case.all("base64"):
        assert len(parts) == int(number), parts
    for begin in case.all("begins"):
        assert any(one.replace(b"=", b"").startswith(begin) for one in scanner.beginnings)
    assert [scanner.beyond] == (case.all("beyond") or [b""])


# -- any message -----------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=b\n", b"Content-Type: multipart/digest;\n",
        b' boundary="b "\n', b"Content-Type: message/rfc822\n", b"Content-Type: x/y; name=a.exe\n",
        b"Content-Disposition: attachment;\n", b" filename*0*=u''b%2e;\n", b"\tfilename*1=exe\n",
        b"Content-Transfer-Encoding: base64\n", b"x" * mime.LINE_LIMIT, b"no header\n", b"Name:",
        b"\n", b"\r", b"\r\n", b"--b\n", b"--b--\n", b"--b ", b"--", b"--bc\n", b"TVqQAAMAA", b" ",
        b"begin 644 c.exe\n", b"begin ", b"=?utf-8?q?", b'"', b";", b"\0", b"\xff",
    ]
)  # fmt: skip
MESSAGES = st.lists(_PIECES, max_size=30).map(b"".join)


@given(MESSAGES, st.lists(st.integers(0, 5000), max_size=8), st.sampled_from([1, 7, mime.BATCH]))
@example(b"\n--\n" + b"x" * 5000 + b"\n", [4098], 1)
@example(b"Content-Transfer-Encoding: base64\n\0", [], 1)
@example(b"\n" + b"x" * 16381 + b"\n\0begin 644 a.exe\0.txt\n", [16390], mime.BATCH)
@example(b"Content-Transfer-Encoding: base64\n" + b" " * 9000 + b"QQQQQQ\nTVqQ\n", [4200], 1)
def test_it_does_not_matter_where_it_is_cut(message: bytes, places: list[int], batch: int) -> None:
    def cut(body: bytes) -> list[bytes]:
        edges = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
        return [body[a:b] for a, b in zip(edges, edges[1:], strict=False)]

    whole, heard = scan(message)
    before = mime.BATCH
    mime.BATCH = batch
    try:
        parts, heard_in_parts = scan(message, cut)
    finally:
        mime.BATCH = before
    assert (whole.names, whole.beyond) == (parts.names, parts.beyond)
    # That a part may begin, of which then nothing comes, is nothing to a listener.
    assert [*filter(None, heard)] == [*filter(None, heard_in_parts)]


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9)


@st.composite
def trees(draw: st.DrawFn, depth: int = 2) -> tuple[EmailMessage, list[str], int]:
    """A message as Python makes it: (it, the names in it, how many parts in base64 it has)."""
    message = EmailMessage()
    message["Subject"] = draw(_TEXT)
    message.set_content("text\n", cte="7bit")
    names: list[str] = []
    encoded = 0
    for _ in range(draw(st.integers(0, 3))):
        name = draw(_TEXT) + draw(st.sampled_from([".exe", ".a b", ""]))
        if depth and draw(st.booleans()):
            inner, inside, number = draw(trees(depth - 1))
            message.add_attachment(inner)
            names, encoded = [*names, *inside], encoded + number
        else:
            content = draw(st.binary(min_size=1, max_size=99))
            message.add_attachment(content, maintype="x", subtype="y", filename=name)
            names, encoded = [*names, name], encoded + 1
    return message, names, encoded


@settings(max_examples=settings().max_examples // 4)
@given(trees())
def test_what_others_attach_is_found(made: tuple[EmailMessage, list[str], int]) -> None:
    message, names, encoded = made
    scanner, parts = scan(message.as_bytes())
    assert {name.encode() for name in names} <= scanner.names
    assert len(parts) == encoded
    assert not scanner.beyond


@given(MESSAGES)
@example(b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: x/y; name=a.exe\n\n")
def test_what_another_reader_sees_we_see(message: bytes) -> None:
    """Python's reader, which is a strict one."""
    scanner, _ = scan(message)
    read = email.message_from_bytes(message.replace(b"\r\n", b"\n"))
    for part in read.walk():
        name = part.get_filename()
        if name and not {"\ufffd", "\r"} & {*name} and not scanner.beyond:
            # It leaves line ends in a name that is folded, and a quotation mark that is alone.
            bare = name.encode("utf-8", "surrogateescape").replace(b"\n", b"").strip()
            assert not bare or {bare, bare.strip(b'"')} & scanner.names, message


# -- hostile ones ------------------------------------------------------------------

HEAD = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n"
NAMED = b"Content-Disposition: attachment; filename=a.exe\n\n"


def nested(depth: int) -> bytes:
    inner = (
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth)
    )
    return b"".join(inner) + NAMED


def test_a_thousand_multiparts_in_each_other() -> None:
    scanner, _ = scan(nested(boundary.COUNT_LIMIT))
    assert (scanner.beyond, scanner.names) == (b"", {b"a.exe"})
    scanner, _ = scan(nested(boundary.COUNT_LIMIT + 1))
    assert (scanner.beyond, scanner.names) == (b"too many multiparts", set())


@pytest.mark.parametrize(
    ("message", "beyond"),
    [
        (HEAD * (mime.SEPARATORS_LIMIT + 1), b"too many parts"),
        (b"Content-Type: x; boundary=" + b"b" * 257 + b"\n\n", b"boundary too long"),
        (b"Content-Type: multipart/x\n\n--" + b"b" * 2_000_000, b"boundary too long"),
        (HEAD + b"Content-Type: " + b"x" * 2_000_000, b"header line too long"),
        (HEAD + b"Content-Type: x\n" + b" y\n" * 600_000, b"header line too long"),
        (HEAD + b"X: y\n" * 110_000, b"too many header lines"),
        (HEAD + b"Content-Type" + b" " * 5000 + b": x; name=b.exe\n", b"header line too long"),
        (HEAD + b"\nbegin 644" + b" " * 5000 + b"b.exe\n", b"name too long"),
        (HEAD + b"Content-Type: " + b"=?" * 5001 + b"\n", b"too many encoded words"),
        (HEAD + b"Content-Type: x; name=" + b"a" * 1001 + b"\n", b"name too long"),
        (HEAD + b"Content-Type: x; name*=" + b"a%41" * 1001 + b"\n", b"name too long"),
        (HEAD + b"Content-Type: " + b"name=a;" * 101 + b"\n", b"too many parameters"),
        (
            HEAD + b"Content-Type: x; name*" + b"9" * 9000 + b"=a; " + b"name=a;" * 101,
            b"too many parameters",
        ),
        (HEAD + b"Content-Type: " + b"name*0=" * 90 + b"\n", b"too many parameters"),
        (
            HEAD + b"Content-Type: a; " + b"name(" * 1600 + b")" + b" " * 8000 + b"\n",
            b"too many parameters",
        ),
        (
            HEAD + b"".join(b"Content-Type: x; name=a%d\n" % n for n in range(2000)),
            b"too many names",
        ),
    ],
    ids=lambda value: value.decode() if len(value) < 50 else "",
)
def test_limits(message: bytes, beyond: bytes) -> None:
    """What is found before is found; and no more is looked at, or kept."""
    scanner, _ = scan(NAMED[:-1] + message)
    assert scanner.beyond == beyond
    assert b"a.exe" in scanner.names
    held = (getattr(scanner, name) for name in ("_held", "_pieces", "_value", "_seen", "names"))
    assert sum(len(one) for one in held) < 5000


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "unit",
    [
        b"--\n", b"--x\n", b"-- ", b"\r", b"\n", b"a\n", b"begin 644 a\n", b"begin ", b"x" * 99,
        b"TVqQAAMAA\n", b" \n", b"X: y\n", b"Content-Type: x\n", b"Content-Type: x; name=a\n",
        b"--b", b"--b\n\n", b"\0", b"a\0\n", b"\n\0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("head", [b"\n", HEAD, HEAD + b"Content-Transfer-Encoding: base64\n\n"])
def test_steps_grow_as_the_message_does(
    unit: bytes, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in lines of the scanner that are run: at most so many for each byte."""
    import sys

    def steps(message: bytes) -> int:
        count = 0

        def trace(frame: object, event: str, argument: object):  # type: ignore[no-untyped-def]
            nonlocal count
            count += event == "line"
            return trace

        sys.settrace(trace)
        try:
            scan(message, lambda body: [body[at : at + 1000] for at in range(0, len(body), 1000)])
        finally:
            sys.settrace(None)
        return count

    sizes = [steps(head + unit * (size // len(unit))) for size in (2_000, 4_000, 8_000)]
    assert sizes[2] < 40 * 8_000
    assert sizes[2] - sizes[1] < 2.2 * (sizes[1] - sizes[0]) + 500


def test_charsets_that_are_none_take_no_memory() -> None:
    """Python keeps every name of a codec that it has looked for."""
    before = len(encodings._cache)
    for number in range(100):
        assert to_utf8(b"x", b"iso-%06d" % number) == b"x"
    assert len(encodings._cache) == before
    names = b"iso-8859-5 x-mac-cyrillic KOI8-U cp1006 utf-16-be ks_c_5601-1987"
    for name in names.split():
        assert to_utf8(b"\xd0\xd1", name) != b"\xd0\xd1", name
