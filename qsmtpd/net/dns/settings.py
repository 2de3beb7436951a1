"""Which DNS servers are asked, and how long an answer may take."""

from __future__ import annotations

from ...config.files import read_regular
from ...config.settings import shown
from ...facts import ControlError
from ..ucspi import is_ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...config.settings import Settings

VARIABLE, FILE = "DNSCACHEIP", "resolvers"
RESOLV_CONF = "/etc/resolv.conf"
#: resolver(3), where resolv.conf names none.
LOCAL = b"127.0.0.1"
SERVERS_LIMIT = 8
#: How many of these settings there have been: more, where a filter asks the DNS.
made = 0


class Server:
    """A DNS server: the family of its address, and that as a socket wants it."""

    __slots__ = ("family", "address")

    def __init__(self, family: int, address: tuple[str | int, ...]) -> None:
        self.family = family
        self.address = address


class DnsSettings:
    """The same for all filters of a session: so options of their lines do not count.

    `timeout` is how long all answers for one command may take, `session` all of a
    session (seconds).  Raises ControlError.
    """

    __slots__ = ("timeout", "session", "_servers")

    def __init__(self, settings: Settings) -> None:
        self.timeout: float = settings.number("dnstimeout", "DNSTIMEOUT", 10, least=1, most=300)
        self.session: float = settings.number(
            "dnssessiontimeout", "DNSSESSIONTIMEOUT", 30, least=1, most=3600
        )
        self._servers = _configured(settings)
        global made
        made += 1

    def servers(self) -> list[Server]:
        """Those that are set, else those of resolv.conf: that is read now."""
        if self._servers is not None:
            return [_at(*place) for place in self._servers]
        try:
            text = read_regular(RESOLV_CONF, RESOLV_CONF.encode("ascii")) or b""
        except (ControlError, OSError):
            text = b""
        return of_resolv_conf(text) or [_at(LOCAL)]


def _at(ip: bytes, port: int = 53) -> Server:
    """The server of this address.  Raises OSError where its zone is no interface."""
    import _socket as socket  # now: not all who read these settings ask

    host, _, zone = ip.decode("ascii").partition("%")
    if b":" not in ip:
        return Server(socket.AF_INET, (host, port))
    number = 0
    if zone:  # a name, or a number, as resolver(3) takes it
        number = int(zone) if zone.isdecimal() and len(zone) < 10 else socket.if_nametoindex(zone)
    return Server(socket.AF_INET6, (host, port, 0, number))


def _configured(settings: Settings) -> list[tuple[bytes, int]] | None:
    """(address, port) of each server that is set, or None.  Raises ControlError."""
    listed = settings.line(None, VARIABLE)
    if listed is not None:
        entries = listed.replace(b",", b" ").split(b" ")
        servers = []
        for entry in filter(None, entries):
            for place in _places(entry):
                if (server := _server(place)) is None:
                    raise ControlError(VARIABLE, f"has {shown(entry)}, which is no address")
                servers.append(server)
        where = VARIABLE
    else:
        lines = settings.lines(FILE)
        if lines is None:
            return None
        servers = []
        for line in lines:
            if (server := _server(line)) is None:
                raise settings.bad_entry(FILE, line, "is no address of a DNS server")
            servers.append(server)
        where = "control/" + FILE
    if not servers:
        raise ControlError(where, "names no DNS server")
    if len(servers) > SERVERS_LIMIT:
        raise ControlError(where, f"names more than {SERVERS_LIMIT} DNS servers")
    return servers


def _places(entry: bytes) -> list[bytes]:
    """The addresses of an entry: djb's programs have several with only dots between them."""
    numbers = entry.split(b".")
    if len(numbers) > 4 and len(numbers) % 4 == 0 and entry.replace(b".", b"").isdigit():
        return [b".".join(numbers[at : at + 4]) for at in range(0, len(numbers), 4)]
    return [entry]


def _server(text: bytes) -> tuple[bytes, int] | None:
    """`address`, `address:port` or `[address]:port`; None where it is none of these."""
    ip, colon, port = text, b"", b""
    if text.startswith(b"["):
        ip, bracket, rest = text[1:].partition(b"]")
        colon, port = rest[:1], rest[1:]
        if not bracket or b":" not in ip or colon not in (b"", b":"):
            return None
    elif text.count(b":") == 1:
        ip, colon, port = text.partition(b":")
    found = _address(ip)
    if found is None or (colon and not (0 < len(port) <= 5 and port.isdigit())):
        return None
    number = int(port or b"53")
    return (found, number) if 0 < number < 65536 else None


def _address(text: bytes) -> bytes | None:
    if is_ipv4(text):
        return text
    from ..ip import canonical

    return canonical(text)


def of_resolv_conf(text: bytes) -> list[Server]:
    """The servers of a resolv.conf(5); lines that make no sense do not count, as elsewhere."""
    servers = []
    for line in text.split(b"\n"):
        words = line.replace(b"\t", b" ").split(b" ")
        if words[0] != b"nameserver":
            continue
        given = next(filter(None, words[1:]), b"").rstrip(b"\r")
        ip, percent, zone = given.partition(b"%")
        found = _address(ip)
        if found is None:
            continue
        try:
            servers.append(_at(found + percent + zone))
        except (OSError, ValueError):
            continue  # an interface that is not there
    return servers[:SERVERS_LIMIT]
