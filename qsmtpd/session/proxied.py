"""A connection that has been passed on to the cold child: its client is who the PROXY header says.

What the address of the balancer has earned is taken from the environment, and there comes
what the header says and a rule gives the client.  It reads the header and not one byte more:
TLS or the session begins behind it.
"""

from __future__ import annotations

import posix as os
import select
from time import monotonic

from .. import waits
from ..config.settings import Settings
from ..facts import ControlError, Counters, Shutdown
from ..log import Log
from ..net import proxy, ucspi
from ..net.descriptors import Gone
from ..net.proxyhosts import ProxySettings
from ..net.tcprules import DENIED, DENIED_END, RIGHTS, denies, find
from ..net.tcprules import variables as set_by
from .ending import SHUTDOWN, log_session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.files import ControlFiles
    from ..facts import Peer


def admit(files: ControlFiles, environ: dict[bytes, bytes], fd: int, protocol: bytes) -> int | None:
    """Make `environ` that of the client of this connection, which is read from `fd`.

    The exit status where that is all; None: there is a session to come.  Raises ControlError.
    """
    settings = Settings(files, environ)
    hosts = ProxySettings(settings)
    peer = ucspi.read_peer(environ, fd)
    if not hosts.names(peer.ip):
        return None
    reading = _Reading(fd)
    log = Log(pid=os.getpid(), ip=peer.ip)

    def end(word: str) -> int:
        log_session(log, reading, peer, Counters(reading.start), word, None, protocol)
        return 1

    try:
        said = proxy.variables(reading.header(reading.start + hosts.timeout), peer.ip, hosts.tls)
    except proxy.Refused as error:
        log.line("proxy", verdict="refused", reason=str(error))
        return end(error.end)
    except TimeoutError:
        return end(proxy.TIMEOUT)
    except Shutdown:
        return end(SHUTDOWN)
    except (OSError, EOFError):
        return end(Gone.end)
    _replace(environ, said, peer)
    if b"TCPREMOTEIP" not in said or hosts.rules is None:
        return None
    own, peer = peer.ip, ucspi.read_peer(environ)
    log.begin(os.getpid(), peer.ip)
    try:
        cdb = settings.cdb_at("PROXYRULES", hosts.rules)
        given, rule = set_by(find(cdb, own, None)), find(cdb, peer.ip, None)
    except ControlError as error:  # it may be one that refuses
        log.line("control", name=error.name, reason=error.reason)
        end("control")
        return 111
    for name in given:  # by this file, if tcpserver has read the same one
        if (name, given[name]) in environ.items():
            del environ[name]
    environ.update(set_by(rule))
    if denies(rule):
        end(DENIED_END)
        return DENIED
    return None


class _Reading:
    """What has been read of a header, from this descriptor; `start` is when it began."""

    def __init__(self, fd: int) -> None:
        self.start = monotonic()
        self.bytes_in = self.bytes_out = 0
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def header(self, deadline: float) -> proxy.Header:
        """The whole header.

        Raises Refused, TimeoutError at the deadline, Shutdown, and EOFError or OSError
        where nothing has come before the end.
        """
        data = b""
        while count := proxy.missing(data):
            piece = self._read(count, deadline)
            if not piece:
                if not data:
                    raise EOFError
                raise proxy.Malformed("the header ends before its end")
            data += piece
            self.bytes_in = len(data)
        return proxy.parse(data)

    def _read(self, most: int, deadline: float) -> bytes:
        while True:
            waits.check()
            if waits.wait(self._poll, deadline):
                try:
                    return os.read(self._fd, most)
                except BlockingIOError:
                    pass  # a shared non-blocking descriptor: somebody else was faster
            if monotonic() >= deadline:
                raise TimeoutError


def _replace(environ: dict[bytes, bytes], said: Mapping[bytes, bytes], peer: Peer) -> None:
    """Take away what is of who has passed the connection on, and have what the header says.

    Its TLS is not the client's.  Of an anonymous client the rest stays.
    """
    known = b"TCPREMOTEIP" in said
    for name in list(environ):
        if name in RIGHTS or name.startswith(b"SSL_") or (known and ucspi.is_of_an_end(name)):
            del environ[name]
    if known and peer.local_host not in (ucspi.UNKNOWN, peer.local_ip):
        environ[b"TCPLOCALHOST"] = peer.local_host  # what we are called is the same
    environ.update(said)
