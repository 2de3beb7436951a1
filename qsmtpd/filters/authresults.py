"""authresults: one header field for what has been found out about a message (RFC 8601).

Configuration: control/authresults or AUTHRESULTS, the name by which others know this host,
its authserv-id; empty: that of control/me.

Above our Received stands one Authentication-Results for SPF, DKIM, DMARC, the reverse name
of the client (iprev) and AUTH, of those that there are.  Fields of this name that say they
are of this host are removed from the message, and those of which that cannot be told.
Replies: none.
Log keys: event=plugin plugin=authresults removed=, value=.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, decline
from ..facts import ControlError
from ..smtp.authres import NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Message
    from ..smtp.authres import Result
    from .dkimresult import Signature
    from .spfresult import Verdict

_NAME = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
NAME_LIMIT = 253  # bytes
NOT_CHECKED = "not checked"


class Plugin:
    """Writes the field, and removes false ones.  Raises ControlError."""

    __slots__ = ("_server", "_remove")
    removes = True

    def __init__(self, settings: PluginSettings) -> None:
        self._server = settings.line("authresults", "AUTHRESULTS") or b""
        where, _ = settings.text("authresults", "AUTHRESULTS") or ("", b"")
        if not self._server:
            where, self._server = "control/me", settings.line("me") or b""
        if not 0 < len(self._server) <= NAME_LIMIT or self._server.strip(_NAME):
            raise ControlError(where, "is no name for Authentication-Results")
        self._remove = {NAME: self._is_ours}

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        """Where the message is held back, there is time for the results of all of it."""
        lines = [] if message.is_held else self._lines(client, envelope)
        return decline(above=lines, remove=self._remove)

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        if not message.is_held:
            return DECLINED
        return decline(above=self._lines(client, envelope))

    def _lines(self, client: Client, envelope: Envelope) -> list[bytes]:
        from ..smtp.authres import line

        results = [*_auth(client), *_iprev(client), *_spf(envelope), *_dkim(envelope)]
        results += _dmarc(envelope)
        return [line(self._server, results)] if results else []

    def _is_ours(self, value: bytes) -> bool:
        """Does a field say that it is ours, or can nobody tell?"""
        from ..net.dns.message import domain
        from ..smtp.authres import claimed

        names = claimed(value)
        own = self._server.rstrip(b".").lower()
        found = {name if name.isascii() else domain(name) for name in names}
        return not names or own in found or None in found


def _result(method: str, word: str, *properties: tuple[str, bytes], **more: bytes) -> Result:
    from ..smtp.authres import Result

    return Result(method, word, [each for each in properties if each[1]], **more)


def _auth(client: Client) -> list[Result]:
    """AUTH (RFC 8601, 2.7.4)."""
    if client.auth is None:
        return []
    user = ("smtp.auth", client.auth.user)
    return [_result("auth", "pass", user, comment=client.auth.mechanism)]


def _iprev(client: Client) -> list[Result]:
    """The reverse name (2.7.3), by the filter fcrdns."""
    word = client.notes.get("fcrdns.iprev")
    if word is None:
        return []
    name = client.notes.get("fcrdns") or b""
    return [_result("iprev", word, ("policy.iprev", client.peer.ip), comment=name)]


def _spf(envelope: Envelope) -> list[Result]:
    """SPF (2.7.2): of the sender, and of HELO."""
    found = envelope.notes.get("spf")
    if found is None:
        return []
    verdicts: list[Verdict | None] = [found.mailfrom, found.helo]
    return [
        _result(
            "spf",
            verdict.result,
            ("smtp." + verdict.identity, verdict.domain),
            reason=verdict.problem,
        )
        for verdict in verdicts
        if verdict is not None
    ]


def _dkim(envelope: Envelope) -> list[Result]:
    """DKIM (2.7.1): of each signature that was checked."""
    found: list[Signature] | None = envelope.notes.get("dkim")
    if found is None:
        return []
    checked = [one for one in found if one.reason != NOT_CHECKED]
    results = [
        _result(
            "dkim",
            one.result,
            ("header.d", one.domain),
            ("header.s", one.selector),
            ("header.a", one.algorithm),
            ("header.b", one.digest),
            reason=one.reason.encode("ascii", "replace"),
            comment=b"testing" if one.testing else b"",
        )
        for one in checked
    ]
    if len(found) > len(checked):
        more = b"%d more are not checked" % (len(found) - len(checked))
        results.append(_result("dkim", "neutral", reason=more))
    return results or [_result("dkim", "none")]


def _dmarc(envelope: Envelope) -> list[Result]:
    """DMARC (RFC 9989): of the author's domain."""
    found = envelope.notes.get("dmarc")
    if found is None:
        return []
    return [
        _result(
            "dmarc",
            found.result,
            ("header.from", found.domain),
            ("policy.dmarc", found.policy.encode("ascii")),
            reason=found.reason,
        )
    ]
