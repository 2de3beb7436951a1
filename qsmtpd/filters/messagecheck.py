"""messagecheck: asks a program about each message.

Configuration: control/messagecheck or MESSAGECHECK, the program's path, relative to
QMAILHOME, without arguments; where the variable is empty, nobody is asked.
It has the message on descriptor 0, a file with LF line ends, without our Received; words
for the log on 1 and 2; and on 4 lines for the header, where it takes the message, else
words for the client.  It runs in our environment with SENDER, RECIPIENTS, one a line, SIZE
(bytes), HELO (the client's name, or TCPREMOTEHOST where it has not said one), and of a client
that may relay RELAYCLIENT, of one that is authenticated TCPREMOTEINFO, SMTPAUTHUSER and
SMTP_AUTH_USER.
It exits 0 or 99, yes; 100, no; 111, not now; every other end is no answer.
MESSAGECHECKTIMEOUT: how long it may take, 60 seconds.
MESSAGECHECKFAIL: what holds where there is no answer, `defer`, `pass` or `refuse`.
MESSAGECHECKSIZE: how many bytes a message may have that it is asked about; 0, any number.
MESSAGECHECKBEYOND: what holds for a larger one, `pass`, `defer` or `refuse`.
MESSAGECHECKHEADERS: the names of the lines that it adds, with blanks between them, a `*` at
the end of one standing for any end: such from outside are removed.
All clients are asked about.
Replies: 100, `554 message was refused (#5.7.1)`; 111, `451 message cannot be checked now
(#4.7.1)`; what it writes to 4 in place of these; what holds for a message that is larger, and
where there is no answer.
Log keys: by=messagecheck; program=, result= where there was no answer, or nobody was asked.
"""

from __future__ import annotations

import posix as os

from ..child.query import LINES_LIMIT
from ..config.settings import shown
from ..decision import DECLINED, Decision, check_header_line, decline, defer, reject
from ..facts import ControlError
from ..net.daemonlist import FAILURES, failed
from ..smtp.header import is_name
from .said import said
from .scan import BEYOND_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config.settings import PluginSettings
    from ..decision import Removals
    from ..facts import Client, Envelope, Message

FILE, VARIABLE = "messagecheck", "MESSAGECHECK"
YES, NO, NOT_NOW = (0, 99), 100, 111
TIMEOUT = 60  # seconds
#: Bytes of one variable, of which a program can have 128 KB (execve(2)).
RECIPIENTS_LIMIT = 100_000
FIELDS_LIMIT = 50
REFUSED = reject(b"message was refused", 554, b"5.7.1")
DEFERRED = defer(b"message cannot be checked now", 451, b"4.7.1")
DANGEROUS = reject(b"sorry, that cannot be passed to our message check", 554, b"5.7.1")


class Plugin:
    """Does as the program says.  Raises ControlError."""

    __slots__ = ("_settings", "_program", "_timeout", "_failed", "_size", "_beyond", "_removed")
    spool = True
    removes = True

    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self._program = settings.line(FILE, VARIABLE)
        if self._program:
            where = (settings.text(FILE, VARIABLE) or ("", b""))[0]
            settings.expect_program(where, self._program)
        self._timeout = settings.number(None, "MESSAGECHECKTIMEOUT", TIMEOUT, least=1)
        fail = settings.choice(None, "MESSAGECHECKFAIL", _words(FAILURES))
        self._failed = failed(fail.encode())
        self._size = settings.number(None, "MESSAGECHECKSIZE", 0)
        beyond = settings.choice(None, "MESSAGECHECKBEYOND", _words(BEYOND_LIMIT))
        self._beyond = BEYOND_LIMIT[beyond.encode()]
        self._removed = _removed(settings)

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        return decline(remove=self._removed) if self._program and self._removed else DECLINED

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        program, file = self._program, message.file
        if not program or file is None:
            return DECLINED
        size = os.fstat(file.fileno()).st_size
        if self._size and size > self._size:
            self._settings.log(program=program, result="too large", size=size)
            return self._beyond
        from ..child.query import ask
        from ..child.spawn import FUNCTION, client_environ, told

        facts = told(client, envelope)
        facts[b"RECIPIENTS"] = b"\n".join(envelope.recipients)
        facts[b"SIZE"] = b"%d" % size
        if any(value.startswith(FUNCTION) for value in facts.values()):
            return DANGEROUS
        if len(facts[b"RECIPIENTS"]) > RECIPIENTS_LIMIT:
            self._settings.log(program=program, result="too many recipients")
            return self._failed
        answer = ask(
            [program], {**client_environ(client), **facts}, self._timeout, message=file.fileno()
        )
        if answer.status in YES:
            return decline(header=_fields(answer.text))
        if answer.status in (NO, NOT_NOW):
            usual = REFUSED if answer.status == NO else DEFERRED
            if not answer.words:
                return usual
            return Decision(usual.verdict, said(answer.words), usual.code, usual.status)
        self._settings.log(program=program, result=answer.how)
        return self._failed


def _words(words: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(word.decode("ascii") for word in words)


def _removed(settings: PluginSettings) -> Removals:
    """The names of the fields that it adds.  Raises ControlError."""
    names = (settings.line(None, "MESSAGECHECKHEADERS") or b"").split()
    for name in names:
        if not is_name(name.removesuffix(b"*")) or b"*" in name[:-1]:
            raise ControlError("MESSAGECHECKHEADERS", f"{shown(name)} is no name of a header line")
    return dict.fromkeys(names)


def _fields(text: bytes) -> list[bytes]:
    """The lines that it has written, without those that are none of a header."""
    if len(text) >= LINES_LIMIT:  # what is at the end has been cut
        text = text.rpartition(b"\n")[0]
    fields: list[bytes] = []
    for line in text.replace(b"\r\n", b"\n").split(b"\n"):
        if fields and line.startswith((b" ", b"\t")):
            fields[-1] += b"\n" + line
        else:
            fields.append(line)
    return [field for field in fields if _is_field(field)][:FIELDS_LIMIT]


def _is_field(line: bytes) -> bool:
    try:
        check_header_line(line)
    except ValueError:
        return False
    return True
