"""Dovecot's authentication protocol: an exchange with its auth socket, and what that has."""

from __future__ import annotations

import binascii
import posix as os
from time import monotonic

from ..smtp.sasl import is_name
from .daemon import Daemon, NoAnswer, address_of
from .dovecot import LIMIT, NONSENSE, Line, expect_version, is_safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..config.settings import Settings
    from .daemon import Address

#: Bytes of a challenge, so that it has room in a reply (RFC 4954, 4).
CHALLENGE_LIMIT = 9216
#: The number of our request: a connection has one at a time.
_FIRST = 1
#: A mechanism of these lets in whom nobody knows, or is for Dovecot's own programs.
_NEVER = frozenset((b"anonymous", b"private"))
#: Of a client's certificate Dovecot knows nothing.
_UNSUPPORTED = (b"EXTERNAL",)
#: So that the line of EHLO stays below the limit of a reply (RFC 5321, 4.5.3.1.5).
_NAMES_LIMIT = 400
#: For how long what Dovecot has, and that it gives no answer, is remembered (seconds).
FRESH, AGAIN = 60.0, 10.0


class Said:
    """What Dovecot says to a message of the client's: one of the three.

    `challenge` is what the client is asked next, else None; `user`, whom it has shown to
    be, else None; else it is refused, `temporary` for now, or for good.  `code` is
    Dovecot's word for why, for the log.  Of a refusal, `claimed` is whom Dovecot takes it
    to be about.
    """

    __slots__ = ("challenge", "user", "temporary", "code", "claimed")

    def __init__(
        self,
        challenge: bytes | None = None,
        user: bytes | None = None,
        temporary: bool = False,
        code: bytes = b"",
        claimed: bytes = b"",
    ) -> None:
        self.challenge = challenge
        self.user = user
        self.temporary = temporary
        self.code = code
        self.claimed = claimed


#: Words of Dovecot before 2.3 for what is `code=` since.
_CODES = {
    b"temp": b"temp_fail",
    b"authz": b"authz_fail",
    b"user_disabled": b"user_disabled",
    b"pass_expired": b"pass_expired",
}
TEMPORARY = b"temp_fail"
#: A field of a user who may not log in, but for where Dovecot would pass the login on.
NOLOGIN = b"nologin"


def said(text: bytes) -> Said:
    """What a line says of our request.  Raises ValueError where it is none of the answers."""
    line = Line(text)
    if line.id != _FIRST:
        raise ValueError("of another request")
    if line.command == b"CONT":
        if len(line.fields) > 1:
            raise ValueError("more than a challenge")
        challenge = binascii.a2b_base64(b"".join(line.fields), strict_mode=True)
        if len(challenge) > CHALLENGE_LIMIT:
            raise ValueError("too long a challenge")
        return Said(challenge=challenge)
    user = line.values.get(b"user", b"")
    if line.command == b"OK":
        if not is_safe(user):
            raise ValueError("without a user")
        if NOLOGIN in line.words and b"proxy" not in line.words:  # the password is right
            return Said(code=NOLOGIN, claimed=user)
        return Said(user=user)
    if line.command != b"FAIL":
        raise ValueError("no answer")
    codes = [code for word, code in _CODES.items() if word in line.words]
    code = line.values.get(b"code") or b" ".join(codes)
    temporary = TEMPORARY in (code, *codes)
    return Said(temporary=temporary, code=code, claimed=user if is_safe(user) else b"")


class Authentication:
    """One exchange with the auth socket, on a connection of its own: begin(), then go_on().

    `mechanisms` are those that Dovecot has for a client, in its order.  `seconds` is what
    Dovecot may take for all of it.  Raises NoAnswer or Shutdown, as all its methods do.
    """

    __slots__ = ("mechanisms", "_daemon")

    def __init__(self, address: Address, seconds: float) -> None:
        daemon = self._daemon = Daemon(address, seconds, LIMIT)
        try:
            daemon.send(b"VERSION\t1\t1\nCPID\t%d\n" % os.getpid())
            self.mechanisms = handshake(daemon.line)
        except BaseException:
            daemon.close()
            raise

    def begin(self, mechanism: bytes, facts: Sequence[bytes], response: bytes | None) -> Said:
        """Begin with a mechanism; `facts` are fields, `response` the initial one."""
        fields = [b"AUTH", b"%d" % _FIRST, mechanism, b"service=smtp", *facts]
        if response is not None:  # behind it nothing counts
            fields.append(b"resp=" + _base64(response))
        return self._ask(fields)

    def go_on(self, response: bytes) -> Said:
        """The client's answer to the last challenge."""
        return self._ask([b"CONT", b"%d" % _FIRST, _base64(response)])

    def _ask(self, fields: Sequence[bytes]) -> Said:
        self._daemon.send(b"\t".join(fields) + b"\n")
        try:
            return said(self._daemon.line())
        except ValueError as error:  # binascii.Error is one
            self.close()
            raise NoAnswer(NONSENSE) from error

    def close(self) -> None:
        """Whatever was under way is over: for Dovecot as well."""
        self._daemon.close()


def handshake(line: Callable[[], bytes]) -> tuple[bytes, ...]:
    """The mechanisms of an auth socket, from its first lines: see Authentication.

    line() returns the next one.  Raises NoAnswer.
    """
    found: dict[bytes, None] = {}  # a set has no order
    length = 0
    expect_version(line())
    while (text := line()) != b"DONE":
        words = text.split(b"\t")
        if words[0] == b"VERSION" or b"" in words[:1]:
            raise NoAnswer(NONSENSE)
        name = words[1].upper() if words[0] == b"MECH" and len(words) > 1 else b""
        if not is_name(name):
            continue
        length += 1 + len(name)
        if name not in _UNSUPPORTED and _NEVER.isdisjoint(words) and length <= _NAMES_LIMIT:
            found[name] = None
    return tuple(found)


class Server:
    """An auth socket, as all sessions of a configuration know it: what it has is remembered."""

    __slots__ = ("address", "_names", "_ask_at")

    def __init__(self, address: Address) -> None:
        self.address = address
        self._names: tuple[bytes, ...] | None = None
        self._ask_at = 0.0

    def mechanisms(self, seconds: float) -> tuple[tuple[bytes, ...] | None, str | None]:
        """(those that it has, None where nobody knows; why it gave no answer just now).

        It is asked where that is a while ago, and may take `seconds`; without an answer
        those count that were last known.  Raises Shutdown.
        """
        if monotonic() < self._ask_at:
            return self._names, None
        try:
            exchange = Authentication(self.address, seconds)
        except NoAnswer as error:
            self._ask_at = monotonic() + AGAIN
            return self._names, str(error)
        exchange.close()
        self._ask_at = monotonic() + FRESH
        self._names = exchange.mechanisms
        return self._names, None


def server_of(settings: Settings) -> Server | None:
    """That of the setting dovecotauth, if there is one.  Raises ControlError."""
    address = address_of(settings, "dovecotauth", "DOVECOTAUTH")
    return None if address is None else Server(address)


def _base64(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False)
