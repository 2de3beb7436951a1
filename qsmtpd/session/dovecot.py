"""AUTH through Dovecot: what it has is announced, and each exchange is passed on to it.

Dovecot does not look whether a password may come as it does: that plain text is only
for TLS (RFC 4954, 4) is for the session, as of all AUTH.
"""

from __future__ import annotations

from ..net.daemon import NoAnswer
from ..net.dovecot import is_safe
from ..net.dovecotauth import Authentication
from ..smtp.sasl import ACCEPTED, REFUSED, TEMPORARY, Answer, Message, is_name
from .verifiers import Verifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import AuthSettings
    from ..facts import Client
    from ..log import Log
    from ..net.dovecotauth import Said, Server
    from ..smtp.sasl import Credentials

#: How long an EHLO waits for Dovecot (seconds).
WAIT = 10.0


def offered(settings: AuthSettings, server: Server, log: Log) -> tuple[bytes, ...] | None:
    """The mechanisms that Dovecot has; None where nobody knows.  Raises Shutdown."""
    names, trouble = server.mechanisms(min(WAIT, settings.timeout))
    if trouble is not None:
        log.line("daemon", setting="dovecotauth", socket=server.address.text, reason=trouble)
    return names


class Dovecot(Verifier):
    """Passes on what the client says.

    `reason` is why there was no answer, or Dovecot's word for a refusal.
    """

    def __init__(self, settings: AuthSettings, server: Server, client: Client) -> None:
        self._settings = settings
        self._server = server
        self._client = client
        self._exchange: Authentication | None = None
        self._mechanism: bytes | None = None  # until it has begun

    def has(self, mechanism: bytes) -> bool:
        """Can the client use this mechanism?  It is the one that begins with ask().

        True also where nobody knows: the answer is then TEMPORARY.
        """
        named = self._settings.mechanisms
        if not is_name(mechanism) or (named and mechanism not in named):
            return False
        self._mechanism = mechanism
        try:
            self._exchange = Authentication(self._server.address, self._settings.timeout)
        except NoAnswer as error:
            self.reason = str(error)
            return True
        return mechanism in self._exchange.mechanisms

    def ask(self, question: Credentials | Message) -> Answer:
        """Pass a Message on."""
        assert isinstance(question, Message)
        exchange = self._exchange
        if exchange is None:
            return Answer(TEMPORARY)
        try:
            if self._mechanism is None:
                return self._answer(exchange.go_on(question.text or b""))
            mechanism, self._mechanism = self._mechanism, None
            return self._answer(exchange.begin(mechanism, facts(self._client), question.text))
        except NoAnswer as error:
            self.reason = str(error)
            return Answer(TEMPORARY)

    def _answer(self, said: Said) -> Answer:
        if said.challenge is not None:
            return Answer(None, message=said.challenge)
        if said.user is not None:
            return Answer(ACCEPTED, said.user)
        self.reason = said.code or None
        return Answer(TEMPORARY if said.temporary else REFUSED, said.claimed)

    def close(self) -> None:
        """Dovecot forgets an exchange whose connection is closed."""
        if self._exchange is not None:
            self._exchange.close()


def facts(client: Client) -> list[bytes]:
    """The fields of an AUTH that say who the client is, for Dovecot's rules and its log.

    `nologin`: no program of Dovecot's will ask for the result.
    """
    peer = client.peer
    found = [b"nologin"]
    for name, value in (
        (b"lip", peer.local_ip),
        (b"rip", peer.ip if peer.ip != b"unknown" else None),
        (b"lport", peer.local_port),
        (b"rport", peer.port),
    ):
        if value is not None and is_safe(value):
            found.append(name + b"=" + value)
    if client.tls is not None:
        found.append(b"secured=tls")
    return found
