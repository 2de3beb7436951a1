"""Where a store on a server is, as its setting says it, and as Redis' own libraries write it.

    redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]     also valkey://
    unix://[[USER]:PASSWORD@]/PATH[?db=DATABASE]         also unix:/PATH

HOST is an IP address, an IPv6 one in brackets, or localhost; `%XX` is that byte.
"""

from __future__ import annotations

from ...net.daemon import Address, parse_address

PORT, MOST_DATABASE = b"6379", 1_000_000
_TCP, _LOCAL, _TLS = (b"redis://", b"valkey://"), (b"unix:",), (b"rediss://", b"valkeys://")
SCHEMES = (*_TCP, *_LOCAL, *_TLS)
_HEX = b"0123456789abcdefABCDEF"


class Server:
    """A server: its address, and what it wants to hear first.

    `name` is for people, and without the password.
    """

    __slots__ = ("address", "user", "password", "database", "name")

    def __init__(
        self, address: Address, user: bytes, password: bytes | None, database: int
    ) -> None:
        self.address = address
        self.user = user
        self.password = password
        self.database = database
        self.name = address.text.decode("ascii", "backslashreplace")
        if database:
            self.name += f", database {database}"


def parse(text: bytes) -> Server | None:
    """The server that a setting names; None where it names a file.

    Raises ValueError, which says what is wrong, and nothing of a password.
    """
    scheme = next((each for each in SCHEMES if text.startswith(each)), None)
    if scheme is None:
        # A password in the name of a file would be in the log.
        if b"://" in text or (b"@" in text and text.startswith((b"redis", b"valkey"))):
            raise ValueError("names neither a file nor a server")
        return None
    if scheme in _TLS:
        raise ValueError("wants TLS, which is not done: let stunnel do it, see qsmtpd-filters(5)")
    rest = text[len(scheme) :]
    if scheme in _LOCAL and not rest.startswith(b"//"):
        if b"@" in rest:  # a password in the name of a socket would be in the log
            raise ValueError("has no // before user and password; an @ of a path is %40")
        return Server(parse_address(b"unix:" + _decoded(rest)), b"", None, 0)
    given, at, place = rest.removeprefix(b"//").rpartition(b"@")
    user, colon, secret = given.partition(b":")
    if at and not (colon and secret):
        raise ValueError("has no :PASSWORD before the @; an @ of a path is %40")
    password = _decoded(secret) if at else None
    if scheme in _LOCAL:
        path, mark, query = place.partition(b"?")
        database = query.removeprefix(b"db=") if query.startswith(b"db=") else None
        if mark and database is None:
            raise ValueError("has something else than ?db=NUMBER behind the path")
        address = parse_address(b"unix:" + _decoded(path))
    else:
        where, _, database = place.partition(b"/")
        if where.endswith(b"]") or b":" not in where:
            where += b":" + PORT
        address = parse_address(b"inet:" + where)
    return Server(address, _decoded(user), password, _database(database or b"0"))


def _database(text: bytes) -> int:
    if not (text.isdigit() and len(text) < 8 and int(text) <= MOST_DATABASE):
        raise ValueError("has no number of a database")
    return int(text)


def _decoded(text: bytes) -> bytes:
    first, *others = text.split(b"%")
    found = [first]
    for other in others:
        if len(other) < 2 or other[:2].strip(_HEX):
            raise ValueError("has a % that no two hexadecimal digits follow")
        found += [bytes([int(other[:2], 16)]), other[2:]]
    return b"".join(found)
