"""The listening sockets: bound here, or handed over by systemd."""

from __future__ import annotations

import _socket as socket
import os

from ..net.sockets import patient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .options import Options

_FIRST = 3  # sd_listen_fds(3)
ACTIVATION = (b"LISTEN_PID", b"LISTEN_FDS", b"LISTEN_FDNAMES")


def listen(options: Options, environ: Mapping[bytes, bytes]) -> list[socket.socket]:
    """The sockets to accept from, none of them blocking.  Raises OSError."""
    listeners = _inherited(environ) or [_bound(options)]
    for listener in listeners:
        listener.setblocking(False)
        patient(listener)
        os.set_inheritable(listener.fileno(), False)
    return listeners


def _inherited(environ: Mapping[bytes, bytes]) -> list[socket.socket]:
    """The sockets that systemd has opened for this process.  Raises OSError."""
    if environ.get(b"LISTEN_PID") != b"%d" % os.getpid():
        return []
    count = environ.get(b"LISTEN_FDS", b"")
    if not (count.isdigit() and len(count) <= 3):
        return []
    found = [socket.socket(fileno=fd) for fd in range(_FIRST, _FIRST + int(count))]
    for listener in found:
        if (
            listener.family not in (socket.AF_INET, socket.AF_INET6)
            or listener.type != socket.SOCK_STREAM
            or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ):
            raise OSError(0, f"descriptor {listener.fileno()} is no listening TCP socket")
    return found


def address(options: Options) -> tuple[int, tuple[Any, ...]]:
    """(family, the first address of the host, with the port).  Raises OSError.

    The host 0 is every IPv4 address, as in tcpserver; with -6, every IPv6
    address, and by mapped addresses every IPv4 one as well.
    """
    family = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}[options.family]
    host = options.host
    if host == "0":
        host = "::" if options.family == 6 else "0.0.0.0"
    try:
        # What is ASCII as bytes: for text Python loads a codec and its tables.
        name = host.encode("ascii") if host.isascii() else host
        found = socket.getaddrinfo(
            name, options.port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
        )
    except UnicodeError as error:  # a..b, a label that is too long, bytes that are no UTF-8
        raise OSError(0, "this is no name of a host, or of a port") from error
    return found[0][0], found[0][4]


def expect_address(options: Options) -> None:
    """Raises OSError where the address of the host is none of this machine.

    Tried with any free port: the one that is meant may be in use, by this very server.
    """
    family, place = address(options)
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.bind((place[0], 0, *place[2:]))
    finally:
        probe.close()


def _bound(options: Options) -> socket.socket:
    """A socket that listens on address().  Raises OSError."""
    family, place = address(options)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(place[0] != "::"))
    listener.bind(place)
    listener.listen(options.backlog)
    return listener
