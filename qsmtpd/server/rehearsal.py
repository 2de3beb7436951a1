"""Sessions without a client, before the first fork, with control files that say nothing.

The first runs of any code in Python, or of an algorithm in OpenSSL, write more to memory
than later ones: caches, specialised instructions, what is looked up only once.
"""

from __future__ import annotations

import _socket as socket
import os
from time import monotonic

from .. import log as logs
from .. import waits
from ..config.files import ControlFiles
from ..config.session import SessionSettings
from ..config.settings import Settings
from ..diagnose.dryrun import DryRun
from ..facts import Peer
from ..log import Log
from ..session.plan import Plan
from . import worker
from .accepted import Accepted, own
from .configuration import Configuration, Preloaded
from .options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..session.protocol import Conversation
    from ..tls.provider import TlsProvider

#: Python specialises a function when it runs for the eighth time.
_TIMES = 16
_BEGIN = [
    b"EHLO x",
    b"MAIL FROM:<a@b.example>",
    b"RCPT TO:<c@d.example>",
    b"RSET",
]
_END = [
    b"MAIL FROM:<a@b.example>",
    b"RCPT TO:<c@d.example>",
    b"DATA",
    b"Subject: x\n\nx\n",
    b"QUIT",
]
_PLAIN = [*_BEGIN, *_END]
_THROUGH_TLS = [b"EHLO x", b"STARTTLS", *_BEGIN, *_END]
#: What a client sends of whom nothing is queued, one read after the other.  QMQP has no list of
#: domains for whom it serves: there it is an address that is none.
_REFUSED = {
    b"SMTP": [command + b"\r\n" for command in (*_BEGIN[:3], b"QUIT")],
    b"QMTP": [b"14:\nSubject: x\n\nx", b",11:a@b.example,15:11:c@d.example,,"],
    b"QMQP": [b"48:13:Subject: x\n\nx", b",11:a@b.example,12:\0c@d.example,,"],
}


class Nowhere(ControlFiles):
    """Control files that say nothing but a name."""

    def __init__(self) -> None:
        super().__init__(b"/nonexistent")

    def _read(self, name: str) -> bytes | None:
        return b"nobody.example\n" if name == "me" else None


def warm_up(way: TlsProvider | None = None) -> None:
    """Some dry runs of a session, with the plugins that are always there; no log.

    With `way`, which must be prepared, the session goes through STARTTLS.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    log = Log(null)
    commands = _PLAIN if way is None else _THROUGH_TLS
    try:
        for _ in range(_TIMES):
            session = DryRun(Settings(Nowhere(), {}), Peer(relay=b""), log, provider=way)
            # There are no pauses; but code specialised for a channel that makes
            # none would have to be specialised again in each worker.
            session.run(commands, _ignore, _ignore, _ignore, waits=True)
    finally:
        os.close(null)


def serve_some(protocol: type[Conversation]) -> None:
    """Some sessions as a worker serves them, each with a client that is refused; no log.

    Raises OSError or ControlError where there are no descriptors, as when a plugin has set a limit.
    """
    lookup = Settings(Nowhere(), {b"QMQPCLIENT": b""})
    made = Plan(protocol, SessionSettings.load(lookup), lookup, Log())
    options = Options(["-H", "-l", "nobody.example", "127.0.0.1", "25"], {})
    configuration = Configuration(options, {}, None, Preloaded(Nowhere(), made, ""))
    facts = {**own(("127.0.0.1", 25)), b"TCPREMOTEIP": b"127.0.0.1", b"TCPREMOTEPORT": b"1"}
    before = logs.redirect(_Nothing())
    try:
        for _ in range(_TIMES):
            # One read for each command, as if the client waited for the answers.
            server, client = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for piece in _REFUSED[protocol.name]:
                client.send(piece)
            client.shutdown(socket.SHUT_WR)
            accepted = Accepted(server.fileno(), dict(facts), b"", monotonic(), True)
            worker.serve(configuration, accepted, None)
            server.close()
            client.close()
    finally:
        logs.redirect(before)
        waits.begin_session()
        waits.on_request(None)


class _Nothing:
    """A log that nobody reads."""

    def write(self, line: bytes) -> bool:
        return True


def _ignore(_: object) -> None:
    """What is sent and heard, and the exit status, do not matter here."""
