"""spp: runs the plugins of qmail-spp.

Configuration: control/smtpplugins (see sppfile.py), or another file that SPPCONFFILE
names, relative to QMAILHOME.  With the variable NOSPP, whatever its value, none is run.
SPPTIMEOUT: how long a plugin may take, 20 seconds.
A plugin is run in QMAILHOME, in our environment with SMTPHELOHOST, SMTPMAILFROM, SMTPRCPTTO,
SMTPRCPTCOUNT, SMTPRCPTCOUNTALL, SMTPRCPTHOSTSOK, SMTPAUTHUSER, SMTPAUTHMETHOD, as far as
they are known; reads nothing, has the log on 2, and writes commands (see sppanswer.py) to
1.  Its exit status does not matter, but for 120 and, of a command for the shell, 126 and
127: it could not be run.
Replies: those of plugins; `451 qmail-spp failure (#4.3.0)`, or what else is for now at
that command, where one cannot be run, is killed by a signal, takes too long, writes
more than 65536 bytes or what is no command.  `553 sorry, that cannot be passed to our
plugins (#5.7.1)` to a name, address or user that begins with `() {`.
Log keys: by=spp; program=, section=, and result=, said= (what is no command, or is not
said to the client) or changed= (the address of C), and to=.

O at RCPT lets a recipient in that rcpthosts does not; O at MAIL is for badmailfrom.
[connection] is run again after STARTTLS, for nothing of before may hold then.
"""

from __future__ import annotations

from ..child.spawn import VARIABLES
from ..decision import ACCEPT, DECLINE, DECLINED, Decision, decline, defer, reject
from ..facts import PREFACE
from . import sppanswer
from .rcpthosts import Domains
from .said import PRINTABLE
from .sppfile import AUTH, CONNECTION, DATA, HELO, MAIL, RCPT, SHELL, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope
    from .sppfile import Program

FILE, VARIABLE, OFF = "smtpplugins", "SPPCONFFILE", "NOSPP"
OUTPUT_LIMIT = 65536  # bytes that a plugin may write
#: Of all variables that plugins set, with their names: one environment has to hold them.
VARIABLES_LIMIT = 32768  # bytes
ADDRESS_LIMIT = 900  # bytes, as of maxaddrlen by default
FAILURE = defer(b"qmail-spp failure", status=b"4.3.0")
DANGEROUS = reject(b"sorry, that cannot be passed to our plugins", 553, b"5.7.1")
#: What a plugin is told; it is never what our own environment says.
TOLD = (
    b"SMTPHELOHOST SMTPMAILFROM SMTPRCPTTO SMTPRCPTCOUNT SMTPRCPTCOUNTALL SMTPRCPTHOSTSOK"
    b" SMTPAUTHUSER SMTPAUTHMETHOD"
).split()
#: In the notes of an envelope: badmailfrom is not asked.
OK_AT_MAIL = "spp.ok"
_CANNOT_RUN = 120
_SHELL_CANNOT_RUN = (126, 127)
#: What L holds back that is due at a section.
_DUE = {MAIL: b"M", RCPT: b"MR", DATA: b"MRD"}
#: Where there is an address that C can change.
_ADDRESSES = {MAIL: b"SMTPMAILFROM", RCPT: b"SMTPRCPTTO"}
LINES_LIMIT, LINE_LIMIT = 20, 480  # lines in front of a reply, bytes of each
SHOWN = 200  # bytes that the log shows of what is no command


class Plugin:
    """The plugins of a configuration.  Raises ControlError."""

    __slots__ = ("settings", "sections", "timeout", "hosts", "_kind")

    def __init__(self, settings: PluginSettings) -> None:
        self.settings = settings
        self.sections = sections(settings)
        self.timeout = settings.number(None, "SPPTIMEOUT", 20, least=1)
        self.hosts = Domains(settings)
        self._kind = _KINDS[CONNECTION in self.sections, AUTH in self.sections]

    def for_session(self) -> _Session:
        return self._kind(self)


def sections(settings: PluginSettings) -> dict[str, list[Program]]:
    """What is configured for this client.  Raises ControlError."""
    if settings.variable(OFF) is not None:
        return {}
    path = settings.line(None, VARIABLE)
    lines = settings.lines_at(VARIABLE, path) if path else settings.lines(FILE)
    return parse(lines or [], place(settings))


def place(settings: PluginSettings) -> str:
    """What names the file in errors.  Raises ControlError."""
    return VARIABLE if settings.line(None, VARIABLE) else "control/" + settings.list_file(FILE)


class _Session:
    """The same for one session: what plugins have said that holds for what follows."""

    __slots__ = ("_plugin", "_on", "_held", "_asked")

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._on = True
        #: section -> [(where it is due, the error)]
        self._held: dict[str, list[tuple[bytes, bytes]]] = {}
        self._asked = 0  # RCPTs of this transaction

    def _connect(self, client: Client) -> Decision:
        return self._run(CONNECTION, client, {}).decision

    def _starttls(self, client: Client) -> Decision:
        return self._run(CONNECTION, client, {}, can_print=False).decision

    def helo(self, client: Client, name: bytes) -> Decision:
        return self._run(HELO, client, {}, can_print=not client.esmtp).decision

    def _auth(self, client: Client, user: bytes, mechanism: bytes) -> Decision:
        told = {b"SMTPAUTHUSER": user, b"SMTPAUTHMETHOD": mechanism}
        return self._run(AUTH, client, told).decision

    def mail(self, client: Client, envelope: Envelope) -> Decision:
        self.reset(client)
        result = self._run(MAIL, client, {b"SMTPMAILFROM": envelope.sender}, envelope.utf8)
        if result.decision.verdict == DECLINE:
            if result.address is not None:
                envelope.sender = result.address
            if result.ok:
                envelope.notes[OK_AT_MAIL] = True
        return result.decision

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        self._asked += 1
        asked = client.asked_for(recipient)
        suffix = recipient[len(asked) :]  # none where relay is asked behind us
        allowed = client.relay is not None or self._is_ours(envelope, asked)
        told = {
            b"SMTPMAILFROM": envelope.sender,
            b"SMTPRCPTTO": asked,
            b"SMTPRCPTCOUNT": b"%d" % len(envelope.recipients),
            b"SMTPRCPTCOUNTALL": b"%d" % self._asked,
            b"SMTPRCPTHOSTSOK": b"%d" % allowed,
        }
        result = self._run(RCPT, client, told, envelope.utf8)
        said = result.decision
        if said.verdict != DECLINE or (result.address is None and not result.ok):
            return said
        new = None if result.address is None else result.address + suffix
        return Decision(ACCEPT if result.ok else DECLINE, header=said.header, recipient=new)

    def data(self, client: Client, envelope: Envelope) -> Decision:
        told = {
            b"SMTPMAILFROM": envelope.sender,
            b"SMTPRCPTTO": client.asked_for(envelope.recipients[-1]),
            b"SMTPRCPTCOUNT": b"%d" % len(envelope.recipients),
            b"SMTPRCPTCOUNTALL": b"%d" % self._asked,
        }
        return self._run(DATA, client, told, can_print=False).decision

    def reset(self, client: Client) -> None:
        """The transaction is over."""
        for section in (MAIL, RCPT, DATA):
            self._held.pop(section, None)
        self._asked = 0

    def _is_ours(self, envelope: Envelope, recipient: bytes) -> bool:
        _, at, domain = recipient.rpartition(b"@")
        return not at or self._plugin.hosts.find(domain, envelope.utf8) is not None

    def _run(
        self,
        section: str,
        client: Client,
        told: dict[bytes, bytes],
        utf8: bool = False,
        can_print: bool = True,
    ) -> _Result:
        """What the plugins of a section say, of what they are told.

        `can_print`: lines can stand in front of the reply.
        """
        due = self._due(section)
        if due is not None:
            return _Result(due)
        self._held.pop(section, None)  # of the HELO before, say
        result = _Result(DECLINED)
        header: list[bytes] = []
        for program in self._plugin.sections.get(section, ()) if self._on else ():
            try:
                said = self._ask(program, section, client, told)
                self._set(client, said.changed)
                if said.address is not None and section in _ADDRESSES:
                    _check_address(said.address, section, utf8)
            except _Failed as failed:
                self._log(program, section, told, **failed.fields)
                return _Result(failed.decision)
            if said.address is not None and section in _ADDRESSES:
                self._log(program, section, told, changed=said.address)
                result.address = told[_ADDRESSES[section]] = said.address
            header += said.header
            if said.later:
                self._held.setdefault(section, []).extend(said.later)
            refusal = said.decision
            if refusal is not None:
                return _Result(refusal)
            if said.printed and can_print:
                preface = client.notes.setdefault(PREFACE, [])
                preface += map(_text, said.printed[: LINES_LIMIT - len(preface)])
            elif said.printed:
                self._log(program, section, told, said=b" ".join(said.printed))
            if said.end == sppanswer.ACCEPT:
                self._on = False
            result.ok = said.end == sppanswer.OK
            if said.end:
                break
        result.decision = self._due(section) or (decline(header=header) if header else DECLINED)
        return result

    def _due(self, section: str) -> Decision | None:
        """What was held back until this section, or until one before it."""
        letters = _DUE.get(section, b"")
        held = [
            text for errors in self._held.values() for letter, text in errors if letter in letters
        ]
        return sppanswer.refusal(held) if held else None

    def _ask(
        self, program: Program, section: str, client: Client, told: dict[bytes, bytes]
    ) -> sppanswer.Answer:
        """Run a plugin.  Raises _Failed."""
        from ..child.query import read
        from ..child.spawn import FUNCTION, client_environ

        facts = {**_known(client), **told}
        if any(value.startswith(FUNCTION) for value in facts.values()):
            raise _Failed(DANGEROUS)
        environ = client_environ(client)
        for name in TOLD:
            environ.pop(name, None)
        answer = read(program.command, {**environ, **facts}, self._plugin.timeout, OUTPUT_LIMIT)
        shell = program.command[0] == SHELL
        if answer.status is None or answer.status == _CANNOT_RUN:
            raise _Failed(result=answer.how)
        if shell and answer.status in _SHELL_CANNOT_RUN:
            raise _Failed(result=answer.how)
        if answer.status and not answer.text:
            self._log(program, section, told, result=answer.how)
        try:
            return sppanswer.parse(answer.text)
        except ValueError as error:
            raise _Failed(result=f"writes {error}", said=answer.text[:SHOWN]) from error

    def _set(self, client: Client, changed: dict[bytes, bytes | None]) -> None:
        """Variables for the programs that follow.  Raises _Failed."""
        if not changed:
            return
        variables = {**client.notes.get(VARIABLES, {}), **changed}
        size = sum(len(name) + len(value or b"") for name, value in variables.items())
        if size > VARIABLES_LIMIT:
            raise _Failed(result=f"variables of more than {VARIABLES_LIMIT} bytes")
        client.notes[VARIABLES] = variables

    def _log(
        self, program: Program, section: str, told: dict[bytes, bytes], **fields: bytes | str
    ) -> None:
        if fields:
            to = told.get(b"SMTPRCPTTO") if section == RCPT else None
            self._plugin.settings.log(program=program.name, section=section, **fields, to=to)


def _kind(connection: bool, auth: bool) -> type[_Session]:
    """A session that has plugins in these sections.

    A hook that nobody wants costs: at connect, a process for each client.
    """
    hooks: dict[str, object] = {}
    if connection:
        hooks |= {"connect": _Session._connect, "starttls": _Session._starttls}
    if auth:
        hooks["auth"] = _Session._auth
    return type("Session", (_Session,), {"__slots__": (), **hooks})


_KINDS = {
    (connection, auth): _kind(connection, auth)
    for connection in (False, True)
    for auth in (False, True)
}


class _Result:
    """What the plugins of a section say: a decision; with `ok`, qmail's own check is left out.

    `address` is what takes the place of the sender or the recipient, or None.
    """

    __slots__ = ("decision", "ok", "address")

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.ok = False
        self.address: bytes | None = None


class _Failed(Exception):
    """A plugin was of no use: what then holds, and what the log says."""

    def __init__(self, decision: Decision = FAILURE, **fields: bytes | str) -> None:
        super().__init__()
        self.decision = decision
        self.fields = fields


def _known(client: Client) -> dict[bytes, bytes]:
    """What is known of a client at any command."""
    known = {}
    if client.helo is not None:
        known[b"SMTPHELOHOST"] = client.helo
    if client.auth is not None:
        known[b"SMTPAUTHUSER"] = client.auth.user
        known[b"SMTPAUTHMETHOD"] = client.auth.mechanism
    return known


def _check_address(address: bytes, section: str, utf8: bool) -> None:
    """The address of C.  Raises _Failed."""
    wrong = len(address) >= ADDRESS_LIMIT or any(byte < 32 or byte == 127 for byte in address)
    if utf8 and not wrong:
        from ..smtp.utf8 import check_address

        try:
            check_address(address)
        except ValueError:
            wrong = True
    if wrong or (section == RCPT and not address):
        raise _Failed(result="writes what is no address", said=address[:SHOWN])


def _text(line: bytes) -> bytes:
    """A line to be printed, without a code, which is that of the reply."""
    return sppanswer.split(line)[1][:LINE_LIMIT].translate(PRINTABLE)
