"""Who answers the questions of the mechanisms of AUTH (qsmtpd/smtp/sasl/).

A verifier is made for one exchange.  It has ask(question), which returns an
Answer and raises nothing but Shutdown, and close(), which ends what it still
has open; `reason` is for the log.  No password is ever in the environment, in an
argument, in the log or in the text of an exception.
"""

from __future__ import annotations

from time import monotonic

from ..child.query import ask
from ..child.spawn import child_environ
from ..smtp.sasl import (
    ACCEPTED,
    CERTIFICATE,
    CHECKPASSWORD,
    REFUSED,
    SCRAM,
    TEMPORARY,
    Answer,
    Credentials,
    Message,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..child.conversation import Conversation
    from ..config.session import AuthSettings

#: Bytes that a helper may say, so that its challenges have room in a reply (RFC 4954, 4).
_SAID_LIMIT = 9216


class Verifier:
    """Nobody: for the mechanism that asks nothing.

    `reason` says for the log why a verdict is what it is, if that is known.
    """

    reason: str | bytes | None = None

    def ask(self, question: Credentials | Message) -> Answer:
        """The answer to the next question of the exchange."""
        raise NotImplementedError

    def close(self) -> None:
        """The exchange is over."""


def verifier_of(asks: str, settings: AuthSettings, environ: Mapping[bytes, bytes]) -> Verifier:
    """That of a mechanism which asks there; `environ` is that of the connection."""
    if asks == CERTIFICATE:
        return Verifier()
    environ = child_environ(environ)
    if asks == SCRAM:
        return Helper(settings.programs[asks], environ, settings.timeout)
    cram = asks == CHECKPASSWORD and b"CRAM-MD5" in settings.mechanisms
    order = "" if not cram else "challenge" if settings.krysztof else "response"
    return Program(settings.programs[asks], environ, settings.timeout, order)


class Program(Verifier):
    """One that is asked once (https://cr.yp.to/checkpwd/interface.html).

    It reads the credentials on fd 3, and answers by its exit status: only 0 is
    a yes, only 1 a no.  One that takes longer than `timeout` (seconds) is ended.
    Its fd 0 is /dev/null, its fd 1 the log.  `order` is what comes first of a
    CRAM-MD5, `response` or `challenge`, or empty where there can be none.
    """

    def __init__(
        self, command: list[bytes], environ: Mapping[bytes, bytes], timeout: float, order: str = ""
    ) -> None:
        self._command = command
        self._environ = environ
        self._timeout = timeout
        self._order = order

    def ask(self, question: Credentials | Message) -> Answer:
        """Start the program with these Credentials."""
        assert isinstance(question, Credentials)
        fields = _fields(question, self._order)
        answer = ask(self._command, self._environ, self._timeout, fields, search=True)
        return Answer(_verdict(answer.status), question.user)


class Helper(Verifier):
    """One that carries out SCRAM: the client's messages are lines for it, its lines the server's.

    It writes one line for each of the two that it reads, and then exits; 0 is a
    yes, 1 a no, at any time.  Each answer has `timeout` seconds.
    """

    def __init__(
        self, command: list[bytes], environ: Mapping[bytes, bytes], timeout: float
    ) -> None:
        self._command = command
        self._environ = environ
        self._timeout = timeout
        self._conversation: Conversation | None = None

    def ask(self, question: Credentials | Message) -> Answer:
        """Pass a Message on."""
        assert isinstance(question, Message) and question.text is not None
        deadline = monotonic() + self._timeout
        if self._conversation is None:
            return self._begin(question.text, deadline)
        conversation = self._conversation
        line = conversation.hear(deadline) if conversation.say(question.text) else None
        conversation.end_input()
        verdict = _verdict(conversation.status(deadline))
        if verdict != ACCEPTED:
            return Answer(verdict)
        # A yes without the server's proof is none.
        return Answer(ACCEPTED, message=line) if line else Answer(TEMPORARY)

    def _begin(self, text: bytes, deadline: float) -> Answer:
        from ..child.conversation import Conversation

        try:
            conversation = Conversation(self._command, self._environ, _SAID_LIMIT)
        except OSError:
            return Answer(TEMPORARY)
        self._conversation = conversation
        line = conversation.hear(deadline) if conversation.say(text) else None
        if line is not None:
            return Answer(None, message=line)
        verdict = _verdict(conversation.status(deadline))
        return Answer(REFUSED if verdict == REFUSED else TEMPORARY)

    def close(self) -> None:
        """End the helper where it still waits."""
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None


def _verdict(status: int | None) -> str:
    """What an exit status says; None is no exit by itself."""
    if status == 0:
        return ACCEPTED
    return REFUSED if status == 1 else TEMPORARY


def _fields(credentials: Credentials, order: str) -> bytes:
    """What the program reads: each field with a NUL behind it.

    The third field is there only where CRAM-MD5 can be: checkpassword's own
    third one is a timestamp, which nobody sends.  SPAMCONTROL, s/qmail and
    sagredo send response, challenge; Krysztof's patch, netqmail-auth and
    IndiMail have them the other way round, also where there is no challenge.
    """
    user, proof, challenge = credentials.user, credentials.proof, credentials.challenge
    if not order:
        return b"%b\0%b\0" % (user, proof)
    if order == "challenge" and challenge:
        return b"%b\0%b\0%b\0" % (user, challenge, proof)
    return b"%b\0%b\0%b\0" % (user, proof, challenge)
