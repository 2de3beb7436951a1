"""Who answers the questions of the mechanisms of AUTH (qsmtpd/sasl/).

A verifier is made for one exchange.  It has ask(question), which returns an
Answer and raises nothing but Shutdown, and close(), which ends what it still
has open.  No password is ever in the environment, in an argument, in the log or
in the text of an exception.
"""

from __future__ import annotations

from ..child.query import ask
from ..child.spawn import child_environ
from ..sasl import ACCEPTED, REFUSED, TEMPORARY, Answer, Credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.session import AuthSettings
    from ..sasl import Message


class Checkpassword:
    """A program that is asked once (https://cr.yp.to/checkpwd/interface.html).

    It reads the credentials on fd 3, and answers by its exit status: only 0 is
    a yes, only 1 a no.  One that takes longer than the timeout is ended.  Its
    fd 0 is /dev/null, its fd 1 the log; `environ` is that of the connection.
    """

    __slots__ = ("_settings", "_environ")

    def __init__(self, settings: AuthSettings, environ: Mapping[bytes, bytes]) -> None:
        self._settings = settings
        self._environ = environ

    def ask(self, question: Credentials | Message) -> Answer:
        """Start the program with these Credentials."""
        assert isinstance(question, Credentials)
        settings = self._settings
        fields = _fields(question, settings)
        environ = child_environ(self._environ)
        status = ask(settings.command, environ, settings.timeout, fields, search=True).status
        verdict = {0: ACCEPTED, 1: REFUSED}.get(-1 if status is None else status, TEMPORARY)
        return Answer(verdict, question.user)

    def close(self) -> None:
        """Nothing is open."""


def _fields(credentials: Credentials, settings: AuthSettings) -> bytes:
    """What the program reads: each field with a NUL behind it.

    The third field is there only where CRAM-MD5 can be: checkpassword's own
    third one is a timestamp, which nobody sends.  SPAMCONTROL, s/qmail and
    sagredo send response, challenge; Krysztof's patch, netqmail-auth and
    IndiMail have them the other way round, also where there is no challenge.
    """
    user, proof, challenge = credentials.user, credentials.proof, credentials.challenge
    if b"CRAM-MD5" not in settings.mechanisms:
        return b"%b\0%b\0" % (user, proof)
    if settings.krysztof and challenge:
        return b"%b\0%b\0%b\0" % (user, challenge, proof)
    return b"%b\0%b\0%b\0" % (user, proof, challenge)
