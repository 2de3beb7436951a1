"""What the UCSPI server gives us: the client's descriptors, and the Peer in the environment.

The environment is read in the spellings of the servers in use.

| server | address and port of the client |
|---|---|
| tcpserver, tcpsvd, s6-tcpserver | TCPREMOTEIP, TCPREMOTEPORT |
| ucspi-tcp6, ucspi-ssl 0.91 and later | TCP6REMOTEIP, … beside or instead of TCP… |
| sslserver without -e | SSLREMOTEIP, … |
| systemd (Accept=yes) | REMOTE_ADDR, REMOTE_PORT |
| stunnel | REMOTE_HOST (an address), REMOTE_PORT |
| socat | SOCAT_PEERADDR, SOCAT_PEERPORT, SOCAT_SOCKADDR, SOCAT_SOCKPORT |
| none (plain inetd) | what the kernel says of descriptor 0; unknown where that is no socket |
"""

from __future__ import annotations

import posix as os

from ..facts import BLANKS, Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    End = tuple[bytes | None, bytes | None]

UNKNOWN = b"unknown"
#: So many IPv4 addresses a process remembers as such: most of its clients come again.
SEEN_LIMIT = 1000
_seen: set[bytes] = set()
_FAMILIES = (b"TCP", b"TCP6", b"SSL")


def read_peer(environ: Mapping[bytes, bytes], fd: int | None = None) -> Peer:
    """Who is there.  Never fails: what is missing or no address is unknown.

    Where no variable says it, the socket `fd` does.
    """
    proxy = environ.get(b"PROXYREMOTEIP")
    anonymous = proxy is not None and environ.get(b"PROXYHEADER") != b"PROXY"
    relay = None if anonymous else environ.get(b"RELAYCLIENT")
    if relay is not None:  # it is appended to addresses
        relay = relay.rstrip(BLANKS)
    family = _family(environ)
    if family is not None:
        # One family only: a variable of another one is a leftover of some
        # other server up the chain.
        get = environ.get
        ip, local_ip = get(family + b"REMOTEIP"), get(family + b"LOCALIP")
        if ip not in _seen:
            ip = _address(ip)
        if local_ip not in _seen:
            local_ip = _address(local_ip)
        return Peer(
            ip or UNKNOWN,
            _port(get(family + b"REMOTEPORT")),
            get(family + b"REMOTEHOST") or UNKNOWN,
            get(family + b"REMOTEINFO"),
            local_ip,
            _port(get(family + b"LOCALPORT")),
            get(family + b"LOCALHOST") or local_ip or UNKNOWN,
            relay,
            environ,
            proxy,
            anonymous,
        )
    get = environ.get
    remote = get(b"REMOTE_ADDR") or get(b"REMOTE_HOST") or get(b"SOCAT_PEERADDR")
    if not remote and fd is not None:
        (ip, port), (local_ip, local_port) = _ends(fd)
        return Peer(
            ip=ip or UNKNOWN,
            port=port,
            local_ip=local_ip,
            local_port=local_port,
            local_host=get(b"TCPLOCALHOST") or UNKNOWN,
            relay=relay,
            environ=environ,
            proxy=proxy,
            anonymous=anonymous,
        )
    local_ip = _address(get(b"SOCAT_SOCKADDR"))
    return Peer(
        ip=_address(remote) or UNKNOWN,
        port=_port(get(b"REMOTE_PORT") or get(b"SOCAT_PEERPORT")),
        local_ip=local_ip,
        local_port=_port(get(b"SOCAT_SOCKPORT")),
        # tcpserver's name for a local host, which may be set by hand for the others.
        local_host=get(b"TCPLOCALHOST") or local_ip or UNKNOWN,
        relay=relay,
        environ=environ,
        proxy=proxy,
        anonymous=anonymous,
    )


def _ends(fd: int) -> tuple[End, End]:
    """Address and port of the other end, and of ours; None for what is no Internet socket."""
    nobody: End = (None, None)
    if os.fstat(fd).st_mode & 0o170000 != 0o140000:  # S_ISSOCK()
        return nobody, nobody
    try:
        import _socket  # socket.py costs several milliseconds

        connection = _socket.socket(fileno=fd)
        try:
            names = connection.getpeername(), connection.getsockname()
        finally:
            connection.detach()
    except (ImportError, OSError):  # it has gone, or is no socket of a connection
        return nobody, nobody
    other, own = (
        (_address(name[0].encode("ascii", "replace")), b"%d" % name[1])
        if isinstance(name, tuple) and isinstance(name[0], str)
        else nobody
        for name in names
    )
    return other, own


def _family(environ: Mapping[bytes, bytes]) -> bytes | None:
    """The prefix of the variables that hold, PROTO's word for it first."""
    if environ.get(b"PROTO") == b"TCP" and b"TCPREMOTEIP" in environ:
        return b"TCP"
    for family in (environ.get(b"PROTO", b""), *_FAMILIES):
        if family in _FAMILIES and family + b"REMOTEIP" in environ:
            return family
    return None


def is_of_an_end(name: bytes) -> bool:
    """Does a variable of this name say who or what is at an end of the connection?"""
    if name.startswith((b"SOCAT_PEER", b"SOCAT_SOCK", b"REMOTE_")):
        return True
    return any(
        name.startswith((family + b"REMOTE", family + b"LOCAL"))
        for family in (*_FAMILIES, b"PROXY")
    )


def is_ipv4(text: bytes) -> bool:
    """Is it an IPv4 address in its one canonical spelling?"""
    octets = text.split(b".")
    return len(octets) == 4 and all(
        0 < len(o) <= 3 and o.isdigit() and int(o) < 256 and (o == b"0" or o[0] != 0x30)
        for o in octets
    )


def _address(text: bytes | None) -> bytes | None:
    if not text:
        return None
    if text in _seen:
        return text
    if is_ipv4(text):
        if len(_seen) >= SEEN_LIMIT:
            _seen.clear()
        _seen.add(text)
        return text
    from . import ip as address

    if text.startswith(b"[") and text.endswith(b"]"):  # socat
        text = text[1:-1]
    return address.canonical(text.partition(b"%")[0])


def _port(text: bytes | None) -> bytes | None:
    if text and len(text) <= 5 and text.isdigit():
        return text
    return None


def drop_coerced_locale(environ: dict[bytes, bytes]) -> None:
    """Undo what Python does to the environment of a process without a locale (PEP 538)."""
    if environ.get(b"LC_CTYPE") == b"C.UTF-8" and b"LANG" not in environ:
        del environ[b"LC_CTYPE"]


def take_client() -> tuple[int, int]:
    """Take the client away from descriptors 0 and 1; return its new ones.

    They are duplicates at 10 or above, closed on exec.  /dev/null is left on 0
    and fd 2's file on 1, so that no child process and no stray print can touch
    the client.  Every other inherited descriptor above 2 is closed on exec.
    Raises OSError where 0 or 1 is not open.
    """
    for fd in _inherited():
        if fd > 2:
            try:
                os.set_inheritable(fd, False)
            except OSError:
                pass  # it was the listing's own
    reader = os.dup2(0, _free(10), inheritable=False)
    client = reader, os.dup2(1, _free(reader + 1), inheritable=False)
    null = os.open("/dev/null", os.O_RDWR)  # at 3 or above, or the missing 2
    os.dup2(null, 0)
    if null == 2:  # and so must it be in every child: else the next file there is fd 2
        os.set_inheritable(2, True)
    os.dup2(2, 1)
    if null > 2:
        os.close(null)
    return client


def _free(fd: int) -> int:
    """The first descriptor from this one on that is not open."""
    while True:
        try:
            os.fstat(fd)
        except OSError:
            return fd
        fd += 1


def _inherited() -> Iterable[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return range(3, 1024)
