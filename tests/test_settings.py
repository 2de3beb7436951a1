"""Each setting of the manual, with every kind of value: a session and --check agree on it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import odd_files
import pytest
import settings_table
from cdbs import make_cdb
from daemons import Peer, clamd, http, passwords, policy, redis, rspamd, spam, spamd, userdb
from dns_server import DnsServer
from harness import ROOT, Home, Variables
from milters import ScriptedMilter
from settings_table import ROWS, UNREAD, WRONG, Row

from qsmtpd.config.cdb import Cdb
from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import PluginSettings, Settings
from qsmtpd.diagnose import check
from qsmtpd.diagnose.dryrun import DryRun
from qsmtpd.facts import ControlError
from qsmtpd.log import Log
from qsmtpd.net import ucspi
from qsmtpd.tls.settings import TlsSettings

NOWHERE = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
WHITE = b" \t\r"
#: Of servers that are not there, which is no fault of the setting.
NO_DNS = "\nwrong: DNS: no server answers, so filters that ask it cannot tell"
HOOKS = " (see qsmtpd --hooks)"
CHECKPASSWORD = [b"cat", b"cat", b"true"]  # also with a host name in front
RSPAMD = http(b'{"action": "no action", "score": 0, "required_score": 15}')
SESSION = [
    b"EHLO x",
    b"MAIL FROM:<a@b.example>",
    b"RCPT TO:<x@ok.example>",
    b"DATA",
    b"From: a@b.example\nSubject: x\n\nx\n",
    b"QUIT",
]


# -- a session that takes notes --------------------------------------------


class NotedFiles(ControlFiles):
    """Control files that remember which were looked for."""

    def __init__(self, home: bytes, asked: set[str]) -> None:
        super().__init__(home)
        self.asked = asked

    def lists(self, name: str) -> bool:
        self.asked.add(name)
        return super().lists(name)


class _Noted(Settings):
    """What each lookup gave: name -> what --check is to show."""

    given: dict[str, object]

    def _variable(self, name: str) -> bytes | None:
        assert isinstance(self.files, NotedFiles)
        self.files.asked.add(name)
        return super()._variable(name)

    def is_set(self, variable: str) -> bool:
        assert isinstance(self.files, NotedFiles)
        self.files.asked.add(variable)
        return super().is_set(variable)

    def _note(self, file: str | None, variable: str | None, value: Any) -> Any:
        if value is not None:
            shown = value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value
            self.given[file or variable or ""] = shown
        return value

    def variable(self, name: str) -> bytes | None:
        value: bytes | None = self._note(None, name, super().variable(name))
        return value

    def line(self, file: str | None, variable: str | None = None) -> bytes | None:
        value: bytes | None = self._note(file, variable, super().line(file, variable))
        return value

    def number(self, file: str | None, variable: str | None, *rest: Any, **named: Any) -> int:
        value: int = self._note(file, variable, super().number(file, variable, *rest, **named))
        return value

    def choice(self, file: str | None, variable: str | None, choices: tuple[str, ...]) -> str:
        value: str = self._note(file, variable, super().choice(file, variable, choices))
        return value

    def lines(self, file: str) -> list[bytes] | None:
        found = super().lines(file)
        if found is not None:
            self.given[file] = f"{len(found)} {'entry' if len(found) == 1 else 'entries'}"
        return found

    def cdb(self, file: str) -> Cdb | None:
        found = super().cdb(file)
        if found is not None:
            number = len(list(found.items()))
            self.given[file] = f"{number} {'key' if number == 1 else 'keys'}"
        return found


class NotedPlugin(_Noted, PluginSettings):
    """The same for a plugin."""

    def without_options(self) -> Settings:
        found = NotedSettings(self.files, self._variables)
        found.given = self.given
        return found


class NotedSettings(_Noted):
    """The lookup of a session."""

    def for_plugin(
        self,
        plugin: str,
        options: Mapping[bytes, bytes],
        log: Log,
        environ: Mapping[bytes, bytes] | None = None,
    ) -> PluginSettings:
        own = NotedPlugin(self.files, self._variables, plugin, options, log)
        own.given = self.given
        return own


def program(home: Home, environ: Mapping[str, bytes | None]) -> list[bytes]:
    """The checkpassword program; none where Dovecot is asked."""
    by_dovecot = (environ.get("DOVECOTAUTH") or b"").strip(WHITE)
    return [] if by_dovecot or (home.control_dir / "dovecotauth").exists() else CHECKPASSWORD


class Tried:
    """What a session and --check made of these variables and files."""

    def __init__(
        self,
        home: Home,
        environ: Mapping[str, bytes | None],
        commands: Sequence[bytes] = SESSION,
    ) -> None:
        raw = {name.encode(): os.fsencode(value) for name, value in home.environ.items()}
        for name, value in environ.items():
            raw.pop(name.encode(), None)
            if value is not None:
                raw[name.encode()] = value
        self.asked: set[str] = set()
        self.given: dict[str, object] = {}
        self.replies: list[bytes] = []
        self.error: ControlError | None = None
        self.plugins: list[str] = []
        self.problem: str | None = None  # of TLS
        self.remarks: list[tuple[str, str]] = []
        os.chdir(home.path)
        asks = program(home, environ)
        lookup = NotedSettings(NotedFiles(os.fsencode(home.path), self.asked), raw)
        lookup.given = self.given
        try:
            dry = DryRun(lookup, ucspi.read_peer(raw), Log(NOWHERE), None, asks)
            tls = TlsSettings(lookup)
            self.problem, self.remarks = tls.problem, tls.remarks
            self.plugins = [entry.name for entry in dry.hooks.order.entries[1:]]
            dry.run(commands, lambda _: None, self.replies.append)
        except ControlError as error:
            self.error = error
        self.report = check.examine(raw, asks)

    def lines(self, kind: str) -> list[str]:
        """What --check says of a kind."""
        return list(self.report.lines[kind])

    def shown(self, name: str) -> str | None:
        """The value that --check shows of a setting."""
        values = [line for line in self.lines("ok") if line.startswith(f"{name} = ")]
        values = [line for line in values if not line.endswith(HOOKS)]
        assert len(values) <= 1, values
        return values[0].removeprefix(f"{name} = ").rpartition(" (")[0] if values else None


def names() -> Iterator[str]:
    """The names of every setting of the table."""
    for row in ROWS:
        yield from filter(None, (row.file, row.variable))
    yield from settings_table.CDBS


@pytest.fixture
def quiet_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home in which --check has nothing to say, and nobody asks beyond this machine."""
    monkeypatch.setattr("qsmtpd.net.dns.settings.RESOLV_CONF", "/nonexistent")
    monkeypatch.setattr("qsmtpd.diagnose.dns.problem", lambda *_: None)
    home.environ["AUTHCLEAR"] = "1"
    home.environ["SMTPAUTH"] = ""
    (home.path / "users").mkdir()
    make_cdb(home.path / os.fsdecode(settings_table.RIGHT_CDB), {b":joe@ok.example": b""})
    with (
        DnsServer() as dns,
        Peer(userdb(b"x@ok.example"), home.path / os.fsdecode(settings_table.USERDB)),
        Peer(passwords(), home.path / os.fsdecode(settings_table.AUTH)),
        Peer(policy(lambda facts: b"DUNNO"), home.path / os.fsdecode(settings_table.POLICY)),
        ScriptedMilter(path=home.path / os.fsdecode(settings_table.MILTER)),
        Peer(clamd(lambda text: b"stream: OK\n"), home.path / os.fsdecode(settings_table.CLAMD)),
        Peer(spamd(lambda head, text: spam(b"1")), home.path / os.fsdecode(settings_table.SPAMD)),
        Peer(redis, home.path / os.fsdecode(settings_table.REDIS.removeprefix(b"unix:"))),
        Peer(rspamd(lambda head, text: RSPAMD), home.path / os.fsdecode(settings_table.RSPAMD)),
    ):
        home.environ["DNSCACHEIP"] = dns.where
        yield home


def put(home: Home, row: Row, file: bool, value: bytes) -> dict[str, bytes | None]:
    """Set this one, by its file or its variable; the variables."""
    environ: dict[str, bytes | None] = {} if row.variable is None else {row.variable: None}
    for name, text in row.on.items():
        if name.startswith("control/"):
            home.control(name.removeprefix("control/"), text or "")
        else:
            environ[name] = None if text is None else os.fsencode(text)
    if file:
        assert row.file is not None
        (home.control_dir / row.file).write_bytes(value + b"\n")
    else:
        assert row.variable is not None
        environ[row.variable] = value
    return environ


def ways(row: Row) -> list[bool]:
    """By the file, by the variable."""
    return [way for way, name in ((True, row.file), (False, row.variable)) if name]


# -- the table -------------------------------------------------------------


def is_right(tried: Tried, row: Row, expected: object, what: object) -> None:
    """A session has this value, and so has --check, which finds no fault."""
    assert tried.error is None, (what, tried.error)
    assert tried.lines("wrong") == [], what
    assert tried.replies[-1][:4] == b"221 " or tried.replies[-1][:4] == b"421 ", tried.replies
    shown = tried.shown(row.name)
    if expected is not None:
        assert shown == str(expected), what
    if row.name in settings_table.HIDDEN and row.name in tried.given:
        assert shown == "...", what
    else:
        assert shown == (None if row.name not in tried.given else str(tried.given[row.name])), what
    (line,) = [line for line in tried.lines("ok") if line.endswith(HOOKS)]
    assert line == f"plugins = {', '.join(tried.plugins)}{HOOKS}", what


def is_fault(
    tried: Tried, row: Row, what: object, named: Sequence[str | None] | None = None
) -> None:
    """What a wrong value is, or a file that is none."""
    if row.tls:
        is_without_tls(tried, row, what)
    else:
        is_error(tried, row, what, named or [row.file, row.variable])


def is_error(tried: Tried, row: Row, what: object, named: Sequence[str | None]) -> None:
    """A session says 421, and --check says why in the same words."""
    assert tried.error is not None, what
    assert any(name in tried.error.name for name in named if name), (what, tried.error)
    said = f"{tried.error.name}: {tried.error.reason}"
    missing = f"{tried.error.name} does not exist"  # so it says it of a program
    assert {said, missing} & set(tried.lines("wrong")), (what, tried.lines("wrong"))


def is_without_tls(tried: Tried, row: Row, what: object) -> None:
    """A session starts, with less of TLS, and --check says why in the same words."""
    assert tried.error is None, (what, tried.error)
    problems = [f"{name}: {reason}" for name, reason in tried.remarks]
    problems += [tried.problem] if tried.problem else []
    (problem,) = problems
    assert any(name in problem for name in (row.file, row.variable) if name), (what, problem)
    said = tried.lines("wrong") + tried.lines("warning")
    assert any(line.endswith(problem) for line in said), (what, said)


def is_unread(tried: Tried, row: Row, what: object) -> None:
    """A session starts, but this is of no use, and --check says so."""
    assert tried.error is None, (what, tried.error)
    wrong = tried.lines("wrong")
    assert wrong, what
    names = [row.says] if row.says else [name for name in (row.file, row.variable) if name]
    assert any(name in line for name in names for line in wrong), (what, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.variable or row.file)
def test_values(quiet_home: Home, row: Row) -> None:
    home = quiet_home
    for file in ways(row):
        for value, expected in row.right.items():
            tried = Tried(home, put(home, row, file, value))
            is_right(tried, row, expected, (file, value))
            assert not any("white space" in line for line in tried.lines("warning")), value
            tried = Tried(home, put(home, row, file, value + WHITE))
            is_right(tried, row, expected, (file, value, "white space"))
            last = value.count(b"\n") + 1
            where = f"control/{row.file}: line {last}" if file else f"{row.variable}:"
            line = f"{where} ends in white space, which is not part of it"
            assert line in tried.lines("warning"), value
        for value in row.wrong:
            tried = Tried(home, put(home, row, file, value))
            is_fault(tried, row, (file, value))
            if row.tls and row.file != "tlsclients":
                environ = put(home, row, file, value) | {"FORCETLS": b"1"}
                tried = Tried(home, environ)
                is_error(tried, row, (file, value), [row.file, row.variable])
        for value in row.unread:
            is_unread(Tried(home, put(home, row, file, value)), row, (file, value))
        for blank in (b"", WHITE):
            tried = Tried(home, put(home, row, file, blank))
            empty = row.means_empty(file)
            if empty is WRONG:
                is_fault(tried, row, (file, "blank"))
            elif empty is UNREAD:
                is_unread(tried, row, (file, "blank"))
            else:
                is_right(tried, row, empty, (file, "blank"))
        if file:
            (home.control_dir / (row.file or "")).unlink()


NEEDED = {"me": "is missing", "rcpthosts": "is missing, so every recipient is refused"}


@pytest.mark.sample(3)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.variable or row.file)
def test_unset(quiet_home: Home, row: Row) -> None:
    home = quiet_home
    if row.variable == "QMAILQUEUE":
        del home.environ["QMAILQUEUE"]  # the default is not there
    elif row.variable in home.environ:
        del home.environ[row.variable]
    if row.file is not None:
        (home.control_dir / row.file).unlink(missing_ok=True)
    tried = Tried(home, {})
    if row.file in NEEDED or row.variable == "QMAILQUEUE":
        assert tried.lines("wrong")
        assert (tried.error is not None) == (row.file == "me")
        assert row.file != "rcpthosts" or tried.replies[3].startswith(b"553 ")
    else:
        is_right(tried, row, None, "unset")


FILES = [row for row in ROWS if row.file is not None]
FILES += [Row(file, None, {}, on=on) for file, (*_, on) in settings_table.CDBS.items()]


@pytest.mark.sample(4)
@pytest.mark.parametrize("row", FILES, ids=lambda row: row.file)
def test_files_that_are_none(quiet_home: Home, row: Row) -> None:
    home = quiet_home
    assert row.file is not None
    path = home.control_dir / row.file
    environ = put(home, row, True, b"")
    for kind in odd_files.KINDS:
        odd_files.make(kind, path)
        with odd_files.bound_by_rights():
            tried = Tried(home, environ)
        is_fault(tried, row, kind, ["control/" + row.file])
        path.rmdir() if kind == "directory" else path.unlink()
    path.symlink_to("/dev/null")
    tried = Tried(home, environ)
    empty = row.means_empty(file=True)
    if empty is WRONG or row.file in settings_table.CDBS:
        is_fault(tried, row, "/dev/null", ["control/" + row.file])
    elif row.file == "rcpthosts":
        assert tried.error is None and tried.shown("rcpthosts") == "0 entries"
    elif empty is UNREAD:
        is_unread(tried, row, "/dev/null")
    else:
        is_right(tried, row, empty, "/dev/null")


@pytest.mark.parametrize("file", settings_table.CDBS)
def test_cdbs(quiet_home: Home, file: str) -> None:
    home, (keys, wrong, says, on) = quiet_home, settings_table.CDBS[file]
    path = home.control_dir / file
    row = Row(file, None, {}, on=on)
    environ = {name: os.fsencode(text) for name, text in on.items()}
    make_cdb(path, keys)
    is_right(Tried(home, environ), row, "2 keys", "whole")
    content = path.read_bytes()
    for damaged in (b"", b"x" * 3000, content[:-1], content[:2047], bytes(len(content))):
        path.write_bytes(damaged)
        is_error(Tried(home, environ), row, damaged[:9], ["control/" + file])
    make_cdb(path, {wrong: b""})
    is_unread(Tried(home, environ), row, says)


MAIL, RCPT = b"MAIL FROM:<a@b.example>", b"RCPT TO:<x@ok.example>"
#: A setting, a value, commands, and how the last reply begins without and with it.
EFFECTS: list[tuple[str, bytes, list[bytes], bytes, bytes]] = [
    ("databytes", b"9", [MAIL + b" SIZE=10"], b"250 ", b"552 "),
    ("maxrecipients", b"1", [MAIL, RCPT, RCPT], b"250 ", b"452 "),
    ("maxcmdlen", b"512", [b"NOOP " + b"x" * 508], b"250 ", b"500 "),
    ("maxaddrlen", b"256", [b"MAIL FROM:<" + b"a" * 246 + b"@b.example>"], b"250 ", b"555 "),
    ("maxhops", b"1", [MAIL, RCPT, b"DATA", b"Received: x\n\nx\n"], b"250 ", b"554 "),
    ("maxerrors", b"0", [b"JUNK"], b"502 ", b"421 "),
    ("maxjunk", b"0", [b"NOOP"] * 25, b"250 ", b"421 "),
    ("chunking", b"off", [MAIL, RCPT, b"BDAT x"], b"501 ", b"502 "),
    ("postpone", b"data", [MAIL, b"RCPT TO:<bad@ok.example>"], b"553 ", b"250 "),
    ("badmailfrom", b"a@b.example", [MAIL, RCPT], b"250 ", b"553 "),
    ("rcpthosts", b"no.example", [MAIL, RCPT], b"250 ", b"553 "),
    ("recipients", b"!no.example", [MAIL, RCPT], b"250 ", b"550 "),
    ("requiredheaders", b"Date", [MAIL, RCPT, b"DATA", b"From: x\n\nx\n"], b"250 ", b"554 "),
]


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect[0])
def test_what_a_client_sees_of_a_value(
    home: Home, effect: tuple[str, bytes, list[bytes], bytes, bytes]
) -> None:
    """By the file and by the variable, with white space at its end."""
    name, value, commands, without, with_it = effect
    (row,) = [row for row in ROWS if row.file == name]
    home.control("badrcptto", "bad@ok.example")
    rcpthosts = (home.control_dir / "rcpthosts").read_bytes()
    assert Tried(home, {"MAXERRORS": b"20"}, commands).replies[-1].startswith(without)
    for file in ways(row):
        tried = Tried(home, put(home, row, file, value + WHITE), commands)
        assert tried.replies[-1].startswith(with_it), tried.replies
        (home.control_dir / name).unlink(missing_ok=True)
        (home.control_dir / "rcpthosts").write_bytes(rcpthosts)


# -- with the real program -------------------------------------------------

NUMBER_ROWS = [
    row for row in ROWS if row.variable and all(type(v) is int for v in row.right.values())
]
DIALOGUE = b"".join(line + b"\r\n" for line in SESSION[:4]) + b"x\r\n.\r\nQUIT\r\n"


@pytest.mark.parametrize("which", [min, max])
def test_the_least_and_the_greatest_numbers(home: Home, which: Any) -> None:
    """All of them at once.  A limit that is as large as can be is one that nobody reaches."""
    others = "REQUIRE_AUTH TARPITDELAY RECIPIENTSTIMEOUT SPPTIMEOUT"
    others += " DNSBLTHRESHOLD RHSBLTHRESHOLD SPFBEHAVIOR"  # these would ask the DNS
    others += " GREYLIST CLIENTLIMIT"  # which puts everybody off; these want a store
    environ: Variables = {
        row.variable or "": str(which(value for value in row.right.values()))
        for row in NUMBER_ROWS
        if row.variable not in others.split()
    }
    environ |= {"RCPTCHECK": "/bin/true", "DOVECOTUSERS": ""}
    if which is min:
        environ |= {"DATABYTES": "10", "MAXERRORS": "9"}
    assert len(environ) > 25
    run = home.run(DIALOGUE, **environ)
    assert run.codes == [220, 250, 250, 250, 354, 250, 221], run.log
    assert home.run(b"", "--check", **environ).status == 0


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=pytest.mark.long if number % 3 else pytest.mark.slow)
        for number, row in enumerate(ROWS)
    ],
    ids=lambda row: row.variable or row.file,
)
def test_a_value_of_each_kind(quiet_home: Home, row: Row) -> None:
    """What the tests above say of a session and of --check is so of the program."""
    home = quiet_home
    for file in ways(row):
        values = [
            (next(iter(row.right)), True),
            *((text, False) for text in row.wrong[: not row.tls]),
        ]
        for value, right in values:
            given = put(home, row, file, value)
            environ: Variables = {
                name: None if text is None else os.fsdecode(text) for name, text in given.items()
            }
            asks = [] if not program(home, given) else ["cat", "true"]
            run = home.run(b"QUIT\r\n", **environ)
            assert run.codes == ([220, 221] if right else [421])
            out = home.run(b"", "--check", *asks, **environ).out.decode()
            out = out.replace(NO_DNS, "")
            assert ("\nwrong: " in out) == (not right), out
            if not right:
                event = run.event("control")
                said = f"wrong: {event['name']}: {event['reason']}"
                assert said in out or f"wrong: {event['name']} does not exist" in out
        if file:
            (home.control_dir / (row.file or "")).unlink()
            home.control("me", "mx.example")
            home.control("rcpthosts", "ok.example")


# -- nothing is left out ---------------------------------------------------

#: Documented, and set elsewhere than in control files and variables of a session, or tested there.
ELSEWHERE = {
    "QMAILHOME": "test_check.py: test_no_home",
    "RELAYCLIENT": "test_relayclient.py: ",
    "TCPREMOTEIP TCPREMOTEPORT TCPREMOTEHOST TCPREMOTEINFO": "test_units.py: test_peer",
    "TCPLOCALIP TCPLOCALPORT TCPLOCALHOST PROTO": "test_units.py: test_peer_names",
    "servercert.pem servercert2.pem serverkey2.pem": "test_check.py: test_certificates",
    "servercerts/NAME/servercert.pem": "test_check.py: test_certificates",
    "clientca.pem clientcrl.pem SERVERCERT SERVERKEY": "test_tls.py: ",
    "SSL_PROTOCOL SSL_CIPHER SSLCTLFD SSLREADFD SSLWRITEFD": "test_tls_helper.py: ",
    "TMPDIR": "test_check_programs.py: test_no_place_for_the_files_of_messages",
    "control/qmqpservers control/qmqpcorder control/qmqpctimeout control/qmqpcconnect QMQPCORDER"
    " QMQPCTIMEOUT QMQPCCONNECT": "test_qmqpc.py: test_no_configuration",
    "control/qmqpqueue qmqpqueue QMQPQUEUE qmqpservers qmqpcorder qmqpctimeout qmqpcconnect": (
        "test_qmqpqueue.py: test_what_makes_no_sense"
    ),
    "qmqpclients QMQPCLIENT": "test_qmtp.py: test_entries_that_are_no_clients",
    "control/smtpusers": "test_checkpassword.py: test_a_damaged_file_lets_nobody_in",
}
#: Documented with a macro of their own, and no settings of a session: what programs are given,
#: and what other programs of ours read.
NO_SETTINGS = {
    *("SENDER", "RECIPIENT", "HELO", "USE_FD4", "RCPTHOSTS", "SMTPAUTHUSER", "SMTP_AUTH_USER"),
    *("SMTPHELOHOST", "SMTPMAILFROM", "SMTPRCPTTO", "SMTPRCPTCOUNT", "SMTPRCPTCOUNTALL"),
    *("SMTPRCPTHOSTSOK", "SMTPAUTHMETHOD"),
    *("LC_CTYPE", "PATH", "USER", "NO_COLOR", "PROXYHEADER", "PROXYREMOTEIP"),
    *("$QMAILHOME/control", "/usr/local/share/doc/qsmtpd/examples"),
}
MANUAL = [path for path in (ROOT / "man").glob("*.[1578]") if path.stem != "starttls-probe"]


def known() -> set[str]:
    """The names of every setting that is tested, here or elsewhere."""
    return {*names(), *" ".join(ELSEWHERE).split()}


def test_every_setting_of_the_manual_has_a_row() -> None:
    listed = set()
    for path in MANUAL:
        for line in re.findall(r"^\.It ((?:Pa|Ev) .*)$", path.read_text(), re.MULTILINE):
            listed |= {*re.split(r"[ ,]+", line)} - {"Pa", "Ev", "No", "else"}
    assert listed - known() - NO_SETTINGS == set()
    assert len(listed) > 90


def test_every_row_is_in_the_manual() -> None:
    text = "".join(path.read_text() for path in MANUAL)
    named = set(re.findall(r"[\w./-]+", text))
    assert known() - named == set()


@pytest.mark.slow
def test_every_setting_that_is_looked_up_has_a_row(quiet_home: Home) -> None:
    """Of a session with each setting in turn, and so with each filter."""
    asked: set[str] = set()
    for row in ROWS:
        for file in ways(row):
            asked |= Tried(quiet_home, put(quiet_home, row, file, next(iter(row.right)))).asked
            if file:
                (quiet_home.control_dir / (row.file or "")).unlink()
                quiet_home.control("me", "mx.example")
    missing = asked - known() - {"nosuch"}
    assert missing == set()
    # And the other way: nothing in the table is read by nobody.
    assert set(names()) - asked == set()


def test_the_manual_says_least_and_most() -> None:
    text = "".join(path.read_text() for path in MANUAL)
    for row in NUMBER_ROWS:
        entry = re.split(rf"(?m)^\.It [^\n]*\bEv {row.variable}$", text)[1:]
        if row.variable == "REQUIRE_AUTH":  # within a text: it is 0 or not
            continue
        (said,) = [part.partition("\n.It ")[0].partition("\n.El")[0] for part in entry]
        bounds = re.findall(r"[Ff]rom\s(\d+)(?:\sto\s(\d+))?", said)
        least, most = min(row.right.values(), key=_int), max(row.right.values(), key=_int)
        if least == 0 and most == settings_table.DIGITS:
            assert bounds == [], row.variable
        else:
            (found,) = bounds
            assert found == (str(least), str(most) if most != settings_table.DIGITS else "")


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def test_what_is_tested_elsewhere_is() -> None:
    for where in ELSEWHERE.values():
        file, _, test = where.partition(": ")
        text = (Path(__file__).parent / file).read_text()
        assert f"def {test}(" in text if test else text, where
