"""rcptcheck: asks a program about each recipient.

Configuration: the variable RCPTCHECK, the program's path, relative to QMAILHOME,
without arguments; empty, nobody is asked.  It runs in our environment with
SENDER, RECIPIENT, HELO (the client's name, or TCPREMOTEHOST where it has not
said one), USE_FD4=1, and RCPTHOSTS=1 where the recipient is in rcpthosts; of a
client that may relay also RELAYCLIENT, and of one that is authenticated
TCPREMOTEINFO, SMTPAUTHUSER and SMTP_AUTH_USER.  RCPTFOUND is never set: whom
control/recipients does not know has been refused before.  It reads nothing,
writes words for the client to descriptor 4 and for the log to 1 and 2, and
exits 0, 99 or 112, yes; 100, no; 111, not now; 113, the sender has had enough.
RCPTCHECKRELAYCLIENT=1: ask about the recipients of relay clients as well.
RCPTCHECKTIMEOUT: how long it may take, 20 seconds.  REPLY_MAILBOX: text that is
added to the refusal.
Replies: 100, `550 sorry, no mailbox here by that name (#5.1.1)`; 113, `421 you
have exceeded your messaging limits (#4.3.0)`; 111, `421 unable to verify
recipient (#4.3.0)`; a signal, its time or any other exit status, `421 unable to
execute recipient check (#4.3.0)`.  421 closes the connection.  A program that is
missing is `421 unable to read controls (#4.3.0)`.  Words of a
program that exits 100 or 113 stand in for its text, and their code, of 400 to
599, for its code.  A sender, recipient, HELO name or user that begins with `() {`
is `553 sorry, that cannot be passed to our recipient check (#5.7.1)`: to a shell
of before 2014 that is a program.
Log keys: by=rcptcheck; program=, result= and to= of one that gave no answer.

Not as in the others: sagredo's passes the words of a program that exits 0 to
the log as a refusal, and answers words without a code with 451; notqmail's and
his take every exit status that they do not know for a yes, as that of a script
with an error in it.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, defer, drop, reject
from .rcpthosts import Domains

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope

YES, NO, NOT_NOW, ENOUGH = (0, 99, 112), 100, 111, 113

UNABLE = drop(b"unable to verify recipient", 421, b"4.3.0")
TROUBLE = drop(b"unable to execute recipient check", 421, b"4.3.0")
TOO_MANY = drop(b"you have exceeded your messaging limits", 421, b"4.3.0")
DANGEROUS = reject(b"sorry, that cannot be passed to our recipient check", 553, b"5.7.1")


class Plugin:
    """Does as the program says.  Raises ControlError."""

    __slots__ = ("_settings", "_program", "_hosts", "_relay", "_timeout", "_refusal")

    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self._program = settings.line(None, "RCPTCHECK")
        if self._program:
            settings.expect_program("RCPTCHECK", self._program)
        self._hosts = Domains(settings)
        relay = settings.line(None, "RCPTCHECKRELAYCLIENT")
        self._relay = relay is not None and relay not in (b"", b"0")
        self._timeout = settings.number(None, "RCPTCHECKTIMEOUT", 20, least=1)
        text = settings.worded(b"sorry, no mailbox here by that name", "REPLY_MAILBOX")
        self._refusal = reject(text, 550, b"5.1.1")

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if not self._program or (client.relay is not None and not self._relay):
            return DECLINED
        from ..child.query import ask
        from ..child.spawn import FUNCTION, client_environ, told

        facts = {**told(client, envelope), **self._asked(envelope, recipient)}
        if any(value.startswith(FUNCTION) for value in facts.values()):
            return DANGEROUS
        environ = client_environ(client)
        for name in (b"RCPTFOUND", b"RCPTHOSTS"):
            environ.pop(name, None)  # we say so, or nobody does
        answer = ask([self._program], {**environ, **facts}, self._timeout)
        if answer.status in YES:
            return DECLINED
        if answer.status == NO:
            return _in_words(answer.words, self._refusal)
        if answer.status == ENOUGH:
            return _in_words(answer.words, TOO_MANY)
        if answer.status == NOT_NOW:
            return UNABLE
        self._settings.log(program=self._program, result=answer.how, to=recipient)
        return TROUBLE

    def _asked(self, envelope: Envelope, recipient: bytes) -> dict[bytes, bytes]:
        """What the program is asked, in its environment."""
        asked = {b"RECIPIENT": recipient, b"USE_FD4": b"1"}
        _, at, domain = recipient.rpartition(b"@")
        if not at or self._hosts.find(domain, envelope.utf8) is not None:
            asked[b"RCPTHOSTS"] = b"1"
        return asked


def _in_words(words: bytes, usual: Decision) -> Decision:
    """The refusal that the program has words for, or the usual one."""
    code, _, text = words.partition(b" ")
    if len(code) != 3 or not code.isdigit():
        return Decision(usual.verdict, words, usual.code, usual.status) if words else usual
    number = int(code)
    if not text or not 400 <= number < 600:
        return usual
    if number == 421:
        return drop(text)
    return reject(text, number) if number >= 500 else defer(text, number)
