"""One question over HTTP/1.0 to a daemon, and its answer (RFC 9112).

By that version an answer comes as it is: not in chunks, and not in another connection.
"""

from __future__ import annotations

from .daemon import Daemon, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .daemon import Address

_HEADER_LINES = 100
_NONSENSE = "talks no HTTP"


class Answer:
    """The status, and the lines of its header: name in lower case -> value; and its body.

    `early`: it came before all of the question had been sent.
    """

    __slots__ = ("status", "header", "body", "early")

    def __init__(self, status: int, header: dict[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.header = header
        self.body = body
        self.early = False


def ask(
    address: Address,
    seconds: float,
    most: int,
    request: bytes,
    header: Iterable[tuple[bytes, bytes]] = (),
    body: Iterable[bytes] = (),
) -> Answer:
    """The answer, of at most so many bytes, to a `request` as b"GET /ping".

    What would end a line of the header is `?` there.  Raises NoAnswer or Shutdown.
    """
    daemon = Daemon(address, seconds, most)
    try:
        whole = daemon.offer(_parts(request, header, body))
        answer = _answer(daemon)
        answer.early = not whole
        return answer
    finally:
        daemon.close()


def _parts(
    request: bytes, header: Iterable[tuple[bytes, bytes]], body: Iterable[bytes]
) -> Iterator[bytes]:
    lines = [b"%b: %b\r\n" % (name, value.translate(_ONE_LINE)) for name, value in header]
    yield request + b" HTTP/1.0\r\n" + b"".join(lines) + b"\r\n"
    yield from body


_ONE_LINE = b"?" * 32 + bytes(range(32, 127)) + b"?" + bytes(range(128, 256))


def _answer(daemon: Daemon) -> Answer:
    version, _, rest = daemon.line().rstrip(b"\r").partition(b" ")
    status = rest[:3]
    is_http = version in (b"HTTP/1.0", b"HTTP/1.1") and len(status) == 3 and status.isdigit()
    if not is_http or rest[3:4] not in (b"", b" "):
        raise NoAnswer(_NONSENSE)
    header: dict[bytes, bytes] = {}
    for _ in range(_HEADER_LINES):
        line = daemon.line().rstrip(b"\r")
        if not line:
            break
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        # Of two lengths neither can be believed (RFC 9112, 6.3).
        if not colon or (name == b"content-length" and header.get(name, value) != value):
            raise NoAnswer(_NONSENSE)
        header[name] = value
    else:
        raise NoAnswer(_NONSENSE)
    if b"transfer-encoding" in header:
        raise NoAnswer("answers in chunks, which HTTP/1.0 does not have")
    length = header.get(b"content-length")
    if length is None:
        return Answer(int(status), header, daemon.rest())
    if not (0 < len(length) <= 10 and length.isdigit()):
        raise NoAnswer(_NONSENSE)
    return Answer(int(status), header, daemon.exactly(int(length)))
