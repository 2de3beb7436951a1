"""control/sendlimits: who may send how much.

A line says who, and behind that the limits, with blanks between them:

    user:joe@example.org   messages=100/hour messages=500/day recipients=1000/day
    user:@example.org      recipients=200/hour      each user of that domain
    user:*                 messages=50/hour         each user who has authenticated
    client:192.0.2.7       unlimited                a client that may relay
    client:192.0.2.        messages=1000/day        each one whose address begins so
    client:*               recipients=5000/day      each client that may relay

One line holds for a client, the first of this list that there is: its user, the user's domain,
any user; without a user its address, the longest beginning of that, any client.  What the line
does not limit is not limited.
"""

from __future__ import annotations

from ..config.settings import number, shown
from ..facts import BLANKS, ControlError
from ..net.prefixes import is_address, prefixes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client

FILE = "sendlimits"
MESSAGES, RECIPIENTS = KINDS = (b"messages", b"recipients")
#: The windows: seconds.
SPANS = {b"hour": 3600, b"day": 86400}
WINDOWS = {span: word for word, span in SPANS.items()}
UNLIMITED = b"unlimited"
USER, CLIENT, ANY = b"user:", b"client:", b"*"
#: More than this is no limit that anybody reaches.
MOST = 1_000_000_000
#: Of who is counted; two names that are longer and begin alike are counted together.
NAME_LIMIT = 400  # bytes


class Limit:
    """At most so many messages, or recipients, in a window of so many seconds."""

    __slots__ = ("kind", "span", "most")

    def __init__(self, kind: bytes, span: int, most: int) -> None:
        self.kind = kind
        self.span = span
        self.most = most

    @property
    def text(self) -> bytes:
        """As in `100 messages an hour`."""
        window = WINDOWS[self.span]
        kind = self.kind[:-1] if self.most == 1 else self.kind
        return b"%d %b %b %b" % (self.most, kind, b"an" if window == b"hour" else b"a", window)


class Rules:
    """The lines.  Raises ControlError."""

    __slots__ = ("_lines",)

    def __init__(self, settings: Settings) -> None:
        #: who, as in the file, but a user in the form in which users are counted -> limits
        self._lines: dict[bytes, tuple[Limit, ...]] = {}
        for line in settings.lines(FILE) or ():
            who, *words = [word for word in line.replace(b"\t", b" ").split(b" ") if word]
            try:
                key = _who(who)
                limits = _limits(words)
            except ValueError as error:
                raise settings.bad_entry(FILE, line, str(error)) from error
            if key in self._lines:
                raise settings.bad_entry(FILE, line, "is about who has a line already")
            self._lines[key] = limits

    @property
    def limited(self) -> bool:
        """Is there a limit for anybody?"""
        return any(self._lines.values())

    def of(self, client: Client) -> tuple[bytes, tuple[Limit, ...]]:
        """Who this client is for the counts, and the limits; b"" and none where nothing counts."""
        if client.auth is not None:
            return self.of_user(client.auth.user)
        if client.relay is not None:
            return self.of_address(client.peer.ip)
        return b"", ()

    def of_user(self, name: bytes) -> tuple[bytes, tuple[Limit, ...]]:
        """The same for a user who has authenticated."""
        user = user_key(name)
        _, at, domain = user.rpartition(b"@")
        for key in (user, USER + at + domain if at else b"", USER + ANY):
            if key in self._lines:
                return user, self._lines[key]
        return user, ()

    def of_address(self, ip: bytes) -> tuple[bytes, tuple[Limit, ...]]:
        """The same for a client that may relay, whose address this is."""
        if CLIENT + ip in self._lines:
            return CLIENT + ip, self._lines[CLIENT + ip]
        for text in (*prefixes(ip), ANY):
            if CLIENT + text in self._lines:
                return CLIENT + one_client(ip), self._lines[CLIENT + text]
        return CLIENT + one_client(ip), ()

    def of_key(self, who: bytes) -> tuple[Limit, ...]:
        """The limits of who is counted under this key."""
        if who.startswith(USER):
            return self.of_user(who[len(USER) :])[1]
        return self.of_address(who.removeprefix(CLIENT).removesuffix(b"/64"))[1]


def user_key(name: bytes) -> bytes:
    """The key of a user: in lower case, so that another spelling is no other count.

    That is what checkers of passwords do with a name, as Dovecot and vpopmail; and SASLprep
    (RFC 4013, 2) takes the characters of form KC for the same as those that they stand for.
    """
    name = name.strip(BLANKS)
    if not name.isascii():
        from unicodedata import normalize  # now: few names want it

        try:
            name = normalize("NFKC", name.decode("utf-8")).casefold().encode("utf-8")
        except ValueError:
            pass  # it is no text
    return USER + name.lower().replace(b"\0", b"?")[:NAME_LIMIT]


def _who(text: bytes) -> bytes:
    """The first word of a line, as a key.  Raises ValueError."""
    kind, colon, name = text.partition(b":")
    if kind + colon == USER and name:
        return USER + ANY if name == ANY else user_key(name)
    if kind + colon == CLIENT and (name == ANY or is_address(name)):
        return text
    raise ValueError("names neither user:NAME, @domain or *, nor client:ADDRESS, beginning or *")


def _limits(words: list[bytes]) -> tuple[Limit, ...]:
    """The other words of a line.  Raises ValueError."""
    if words == [UNLIMITED]:
        return ()
    found: dict[tuple[bytes, int], Limit] = {}
    for word in words:
        kind, _, rest = word.partition(b"=")
        digits, _, window = rest.partition(b"/")
        if kind not in KINDS or window not in SPANS:
            raise ValueError(f"has {shown(word)}, none of messages=N/hour, recipients=N/day ...")
        try:
            most = number("", digits, 0, MOST)
        except ControlError as error:
            raise ValueError(f"has {shown(word)}, whose number {error.reason}") from error
        if (
            found.setdefault((kind, SPANS[window]), limit := Limit(kind, SPANS[window], most))
            is not limit
        ):
            raise ValueError(f"has two limits of {kind.decode()} by the {window.decode()}")
    if not found:
        raise ValueError("has no limit, and is not called unlimited")
    return tuple(found.values())


def one_client(ip: bytes) -> bytes:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one."""
    if b":" not in ip:
        return ip
    from .greylistkey import network  # now: few clients have one

    return network(ip, 32, 64) or ip
