"""qsmtpd-server in tcpserver's place: options, environment, rules, limits, status lines.

Where it must do as tcpserver does, tcpserver is asked.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import select
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import odd_files
import pytest
from cdbs import make_cdb
from child import Command
from client import PATIENCE
from harness import BIN, ROOT, Home, needs, wait_for
from listeners import HANDS_OVER, Listener, Server, listening, mail, make_rules, patched

from qsmtpd.server import options, sockets
from qsmtpd.server.accepted import Client, Connections
from qsmtpd.server.events import Events
from qsmtpd.server.listener import Listener as ServerListener
from qsmtpd.server.options import Options, UsageError
from qsmtpd.server.rules import Rules, denies
from qsmtpd.server.rules import variables as set_by
from qsmtpd.server.user import become

pytestmark = pytest.mark.slow

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
NOBODY = 65534

# -- as tcpserver ----------------------------------------------------------

TABLE = [
    '192.0.2.1:allow,A="exact"',
    '192.0.2.:allow,A="three"',
    '192.0.:allow,A="two"',
    '192.:allow,A="one",B="x y,z"',
    "198.51.100.1-9:deny",
    '203.0.113.7:allow,RELAYCLIENT=""',
    "203.0.113.:deny",
    '=host.example:allow,A="host"',
    '=.example:allow,A="suffix"',
    "=.sub.test:deny",
    "=:allow,A=/has a name/",
    '10.0.0.1:allow,A="address before name"',
    "joe@192.0.2.9:deny",
    ':allow,A="default"',
]
ADDRESSES = [
    *("192.0.2.1", "192.0.2.9", "192.0.3.1", "192.1.1.1", "193.0.0.1", "198.51.100.0"),
    *("198.51.100.1", "198.51.100.9", "198.51.100.10", "203.0.113.7", "203.0.113.8"),
    *("10.0.0.1", "1.2.3.4"),
]
HOSTS = [None, "host.example", "other.example", "example", "a.sub.test", "sub.test", "x"]


@pytest.mark.parametrize("default", [True, False])
def test_rules_as_tcprulescheck(tmp_path: Path, default: bool) -> None:
    cdb = make_rules(tmp_path / "rules.cdb", *(TABLE if default else TABLE[:-4]))
    ours = Rules(os.fsencode(cdb), optional=False)
    denied = 0
    for ip in ADDRESSES:
        for host in HOSTS:
            environ = {"TCPREMOTEIP": ip, **({} if host is None else {"TCPREMOTEHOST": host})}
            done = subprocess.run(
                ["tcprulescheck", cdb], env=environ, capture_output=True, text=True, check=True
            )
            data = ours.find(ip.encode(), None if host is None else host.encode())
            variables = set_by(data)
            theirs = dict(re.findall(r"set environment variable (\w+)=(.*)", done.stdout))
            assert {k.decode(): v.decode() for k, v in variables.items()} == theirs, (ip, host)
            assert denies(data) == ("deny connection" in done.stdout), (ip, host)
            denied += denies(data)
    assert denied


def run_script(home: Home, program: str, *options: str) -> list[str | Path]:
    """The same line of a run script for both programs."""
    ours = program == "qsmtpd-server"
    return [
        BIN / program if ours else needs(program),
        *("-1v", "-c", "7", *options),
        *("127.0.0.1", "0"),
        *([] if ours else [str(BIN / "qsmtpd")]),
    ]


@pytest.fixture(params=["tcpserver", "qsmtpd-server"])
def either(request: pytest.FixtureRequest, home: Home) -> str:
    for name in list(home.environ):
        if name.startswith("TCP") or name == "PROTO":
            del home.environ[name]
    return str(request.param)


def seen_by_the_queue(home: Home, program: str) -> dict[str, str]:
    """The environment of the queue program after one session."""
    env = shutil.which("env")
    home.environ["QMAILQUEUE"] = home.script(
        f"cat >/dev/null; {env} >{home.path}/seen; cat <&1 >/dev/null"
    )
    cdb = make_rules(
        home.path / "rules.cdb",
        '127.0.0.1:allow,A="b",RELAYCLIENT="",TCPLOCALHOST="other.example"',
    )
    options = ["-HR", "-l", "mx.example", "-x", str(cdb)]
    left = {"TCPREMOTEHOST": "stale", "TCPREMOTEINFO": "stale", "LISTEN_FDS": "1"}
    command = run_script(home, program, *options)
    with Listener(command, {**home.environ, **left}, home.path / "log") as listener:
        mail(listener.port)
    lines = (home.path / "seen").read_text().splitlines()
    seen = dict(line.partition("=")[::2] for line in lines)
    for name in ("TCPLOCALPORT", "TCPREMOTEPORT"):
        assert seen.pop(name).isdigit()
    return seen


def test_environment_as_tcpserver(home: Home) -> None:
    theirs = seen_by_the_queue(home, "tcpserver")
    assert theirs["TCPLOCALHOST"] == "other.example" and theirs["RELAYCLIENT"] == ""
    del theirs["LISTEN_FDS"]  # to tcpserver they mean nothing; ours takes the three away
    for name in ("QMAILQUEUE",):
        del theirs[name]
    ours = seen_by_the_queue(home, "qsmtpd-server")
    del ours["QMAILQUEUE"]
    assert ours == theirs


def masked(log: str, port: int) -> list[str]:
    """The status lines, without the name, pids and the client's port."""
    lines = re.findall(r"(?m)^(?:qsmtpd-server|tcpserver): (.*)$", log)
    for pattern, mask in (
        (r"^(pid|ok|deny|end) \d+", r"\1 PID"),
        (rf":{port}\b", ":PORT"),
        (r"::\d+$", "::CLIENT"),
    ):
        lines = [re.sub(pattern, mask, line) for line in lines]
    return lines


def test_status_lines_as_tcpserver(either: str, home: Home) -> None:
    cdb = make_rules(home.path / "rules.cdb", "127.0.0.2:deny", ":allow")
    command = run_script(home, either, "-HR", "-l", "mx.example", "-x", str(cdb))
    with Listener(command, home.environ, home.path / "log") as listener:
        mail(listener.port)
        wait_for(lambda: listener.log().count("status: 0/7") == 2)
        with listener.client("127.0.0.2") as client:
            assert client.reply() == b""
        wait_for(lambda: "deny" in listener.log())
        lines = masked(listener.log(), listener.port)
    session = [
        "status: 1/7",
        "pid PID from 127.0.0.1",
        "ok PID mx.example:127.0.0.1:PORT :127.0.0.1::CLIENT",
        "end PID status 0",
        "status: 0/7",
    ]
    assert lines[:6] == ["status: 0/7", *session]
    # tcpserver forks for whom it denies, we do not.
    assert "deny PID mx.example:127.0.0.1:PORT :127.0.0.2::CLIENT" in lines
    assert all("127.0.0.2" not in line or "ok" not in line for line in lines)


def test_rules_without_a_file(either: str, home: Home) -> None:
    for option, served in ((["-x"], False), (["-X", "-x"], True)):
        command = run_script(home, either, "-HR", "-l0", *option, str(home.path / "none.cdb"))
        with Listener(command, home.environ, home.path / "log") as listener:
            with listener.client() as client:
                assert client.reply().startswith(b"220 ") == served
            if not served:
                wait_for(lambda: "dropping connection, unable to read" in listener.log())


def test_rules_are_read_anew(either: str, home: Home) -> None:
    cdb = make_rules(home.path / "rules.cdb", ":allow")
    command = run_script(home, either, "-HR", "-l0", "-x", str(cdb))
    with Listener(command, home.environ, home.path / "log") as listener:
        for rule, text in ((':allow,RELAYCLIENT=""', b"250 ok"), (":allow", b"553 sorry")):
            make_rules(cdb, rule)
            with listener.client() as client:
                assert client.reply().startswith(b"220 ")
                client.ask(b"MAIL FROM:<>")
                assert client.ask(b"RCPT TO:<x@else.example>").startswith(text)
        make_rules(cdb, ":deny")
        with listener.client() as client:
            assert client.reply() == b""


def test_a_damaged_rules_file(home: Home) -> None:
    (home.path / "rules.cdb").write_bytes(b"x" * 5000)
    with Server(home, "-X", "-x", str(home.path / "rules.cdb")) as server:
        with server.client() as client:
            assert client.reply() == b""
        wait_for(lambda: "dropping connection, unable to read" in server.log())


class OptionsOf:
    """Stands in for who is given connections: which IP options they have."""

    def __init__(self) -> None:
        self.found: list[bytes] = []
        self.configuration = self.preloaded = self
        self.proxies = None

    def plan(self, rule: bytes) -> None:
        return None

    def has_room(self) -> bool:
        return True

    def take(self, client: Client) -> None:
        self.found.append(client.connection.getsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, 64))


RECORD_ROUTE = b"\x07\x07\x04\0\0\0\0\x01"  # an IP option that needs no privilege (RFC 791, 3.1)


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", ""), ("0", "-4"), ("0", "-6"), ("::", "")]
)
@pytest.mark.parametrize("switch", ["-o", "-O"])
def test_ip_options(host: str, family: str, switch: str) -> None:
    """Of an IPv4 client, on a socket for IPv4 as on one for both."""
    options = Options([switch, "-H", *filter(None, [family]), host, "0"], {})
    found = OptionsOf()
    (listener,) = sockets.listen(options, {})
    with closing(listener), socket.socket() as client, socket.socket(socket.AF_INET6) as other:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, RECORD_ROUTE)
        for each, place in ((client, "127.0.0.1"), (other, "::1")):
            if each is client or listener.family == socket.AF_INET6:
                each.connect((place, listener.getsockname()[1]))
                select.select([listener], [], [], PATIENCE)
                events, connections = Events(), Connections()
                stand_in = cast(Any, found)
                accepts = ServerListener(
                    [listener], options, None, events, stand_in, stand_in, connections, print
                )
                accepts.check(0.0)
                events.wait(0.0)
    assert (found.found[0][:2] == RECORD_ROUTE[:2]) == (switch == "-o")
    assert found.found[0] == b"" or switch == "-o"
    assert found.found[1:] in ([], [b""])


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "\udcff.b", "..", "192.0.2.77", "1.2.3"])
def test_a_host_that_is_none(home: Home, host: str) -> None:
    for check in ([], ["--check"]):
        command: Command = [BIN / "qsmtpd-server", *check, host, "0"]
        environ = listening(home)
        done = subprocess.run(command, env=environ, capture_output=True, check=False)
        assert done.returncode == (1 if check else 111)
        assert b"cannot listen" in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr
    command = [BIN / "qsmtpd-server", "--check", "-", "-"]
    done = subprocess.run(command, env=listening(home), capture_output=True, check=False)
    assert b"cannot listen" not in done.stdout


@pytest.mark.parametrize("words", [[], ["127.0.0.1"], ["127.0.0.1", ""], ["", "25"]])
def test_no_host_or_no_port(words: list[str]) -> None:
    with pytest.raises(UsageError):
        Options(["-H", *words], {})


def test_a_relative_home(home: Home) -> None:
    """It is below where the server was started, also after HUP, and for its programs.

    No rule can set another one.
    """
    cdb = make_rules(home.path / "rules.cdb", ':allow,QMAILHOME="/elsewhere"')
    told = home.path / "told"
    home.environ["QMAILQUEUE"] = home.script(f"echo $PWD $QMAILHOME >>{told}; cat >/dev/null")
    home.environ["QMAILHOME"] = home.path.name
    command = ["env", "-C", str(home.path.parent)]
    with Server(home, "-x", str(cdb), command=command) as server:
        for _ in range(2):
            replies = server.session(
                b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA", b".", b"QUIT"
            )
            assert replies[0] == b"220 mx.example ESMTP" and replies[4][:4] == b"451 "
            server.reload()
    assert told.read_text().splitlines() == [f"{home.path} {home.path}"] * 2


@pytest.mark.parametrize("names", ["-H", "-h"])
def test_a_rules_file_that_is_written_to_in_place(home: Home, names: str) -> None:
    """As by cp: while it is half there a client is dropped, be it read by master or worker."""
    cdb = make_rules(home.path / "rules.cdb", *(f"192.0.2.{n}:allow" for n in range(200)))
    content = cdb.read_bytes()
    with Server(home, names, "-x", str(cdb)) as server:
        mail(server.port)
        for size in (len(content) - 100, 2500, 0):
            os.truncate(cdb, size)
            with server.client() as client:
                assert client.reply() == b""
            cdb.write_bytes(content)
            mail(server.port)
        text = f"dropping connection, unable to read {cdb}"
        wait_for(lambda: server.log().count(text) == 3)


def test_a_cdb_of_control(home: Home) -> None:
    """One that is new needs a HUP; one that has changed needs none."""
    path = home.control_dir / "morercpthosts.cdb"
    with Server(home) as server:

        def takes(domain: bytes) -> bool:
            with server.client() as client:
                client.reply()
                client.ask(b"MAIL FROM:<>")
                return client.ask(b"RCPT TO:<x@%b>" % domain).startswith(b"250 ")

        make_cdb(path, {b"one.example": b""})
        assert not takes(b"one.example")
        server.reload()
        assert takes(b"one.example")
        make_cdb(path, {b"two.example": b""})
        assert takes(b"two.example") and not takes(b"one.example")
        make_cdb(home.path / "new", {b"three.example": b""})
        (home.path / "new").rename(path)
        assert takes(b"three.example") and not takes(b"two.example")
        path.unlink()  # what is open serves on
        assert takes(b"ok.example")


@pytest.mark.parametrize("kind", ["fifo", "dangling", "directory"])
def test_rules_that_are_no_file(home: Home, kind: str) -> None:
    """With -X nothing means no rules, but this is not nothing."""
    path = home.path / "rules.cdb"
    odd_files.make(kind, path)
    with Server(home, "-X", "-x", str(path)) as server:
        with server.client() as client:
            assert client.reply() == b""
        wait_for(lambda: "dropping connection, unable to read" in server.log())
        (path.rmdir if kind == "directory" else path.unlink)()
        mail(server.port)
    odd_files.make(kind, path)
    checked = home.run(
        b"", "--check", "-X", "-x", str(path), "127.0.0.1", "0", program="qsmtpd-server"
    )
    assert checked.status == 1
    assert f"\nwrong: {path}: is ".encode() in checked.out


def test_names(home: Home) -> None:
    """With -h the worker looks up, and then applies the rules that may name a host."""
    name = socket.getnameinfo(("127.0.0.1", 0), 0)[0]
    if name == "127.0.0.1":
        pytest.skip("127.0.0.1 has no name here")
    cdb = make_rules(home.path / "rules.cdb", f'={name}:allow,RELAYCLIENT=""', ":deny")
    with Server(home, "-h", "-x", str(cdb)) as server:
        mail(server.port)
        with server.client() as client:
            client.reply()
            client.ask(b"MAIL FROM:<>")
            assert client.ask(b"RCPT TO:<x@else.example>") == b"250 ok"
        make_rules(cdb, f"={name}:deny", ":allow")
        with server.client() as client:
            assert client.reply() == b""
        wait_for(lambda: " status 25600" in server.log())  # tcpserver's 100
        assert re.search(rf"ok \d+ mx.example:127.0.0.1:{server.port} {name}:127", server.log())
        assert re.search(rf"deny \d+ mx.example:127.0.0.1:{server.port} {name}:", server.log())
    (message,) = home.messages()
    assert f"from {name} (HELO me.example) (127.0.0.1)".encode() in message.text.replace(
        b"EHLO", b"HELO"
    )


@pytest.mark.parametrize("option", ["-r", "-t5"])
def test_no_ident(home: Home, option: str) -> None:
    with Server(home, option) as server:
        assert ("ident lookups are not done" in server.log()) == (option == "-r")
        mail(server.port)


# -- limits ----------------------------------------------------------------


def test_client_limit(home: Home) -> None:
    with Server(home, "-C", "2", "--spare", "0", run=patched("listener.LOOPBACK = ()")) as server:
        clients = [server.client("127.0.0.3") for _ in range(2)]
        for client in clients:
            assert client.reply().startswith(b"220 ")
        before = server.children()
        for _ in range(3):
            with server.client("127.0.0.3") as third:
                assert third.reply() == b"421 too many connections from your address (#4.7.0)"
                assert third.reply() == b""
        assert server.children() == before  # nobody was forked for it
        event = server.events("session")[0]
        assert event["end"] == "too-many-connections" and event["ip"] == "127.0.0.3"
        mail(server.port)  # others are served
        clients[0].quit()
        wait_for(lambda: server.said()[-1] == "status: 0/40")
        with server.client("127.0.0.3") as third:
            assert third.reply().startswith(b"220 ")
        clients[1].close()


def test_ipv6(home: Home) -> None:
    """-6 takes both families; a mapped address is an IPv4 one."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("there is no IPv6 here")
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.1:allow,A="4"', ':allow,A="other"')
    home.environ["QMAILQUEUE"] = home.script(
        f"cat >/dev/null; echo $TCPREMOTEIP $TCPLOCALIP $A >>{home.path}/seen; cat <&1 >/dev/null"
    )
    command: Command = [BIN / "qsmtpd-server", "-1HR6", "-l0", "-x", cdb, "0", "0"]
    with Listener(command, home.environ, home.path / "log") as listener:
        mail(listener.port)
        with socket.create_connection(("::1", listener.port)) as connection:
            connection.sendall(
                b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n\r\n.\r\nQUIT\r\n"
            )
            while connection.recv(4096):
                pass
    assert (home.path / "seen").read_text() == "127.0.0.1 127.0.0.1 4\n::1 ::1 other\n"


# -- where the socket comes from, and who we are ---------------------------


def test_socket_activation(home: Home) -> None:
    """As systemd does it: the listening socket on 3, and two variables."""
    seen = home.path / "seen"
    home.environ["QMAILQUEUE"] = home.script(f"cat >/dev/null; env >{seen}; cat <&1 >/dev/null")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        log = home.path / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", HANDS_OVER, str(listener.fileno())),
                    *(BIN / "qsmtpd-server", "-HRv", "-l0", "-", "-"),
                ],
                env=home.environ,
                pass_fds=[listener.fileno()],
                stderr=stream,
            )
        port = listener.getsockname()[1]
    try:
        mail(port)
    finally:
        process.terminate()
        assert process.wait() == 0
    assert "LISTEN_" not in seen.read_text()


def test_socket_activation_with_nonsense(home: Home) -> None:
    script = 'exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", BIN / "qsmtpd-server", "-", "-"],
        env=home.environ,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 111
    assert b"cannot listen" in done.stderr


@ROOT_ONLY
def test_user_and_group(of_nobody: Home) -> None:
    home = of_nobody
    with Server(home, "-u", str(NOBODY), "-g", "12345") as server:
        mail(server.port)
        # As that user it reads what HUP tells it to.
        home.control("me", "new.example")
        server.reload()
        with server.client() as client:
            assert client.reply() == b"220 new.example ESMTP"
        (home.control_dir / "me").chmod(0o600)
        server.reload()
        assert "control/me" in server.log() and "Permission denied" in server.log()
        with server.client() as client:  # as before
            assert client.reply() == b"220 new.example ESMTP"
    assert (home.path / "seen").read_text() == f"{NOBODY}\n12345\n12345\n"


@ROOT_ONLY
@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (["-u", "{user}"], "{uid} {gid} {gid}"),
        (["-g", "12345", "-u", "{user}"], "{uid} 12345 12345"),
        (["-u", "{user}", "-g", "{group}"], "{uid} {gid} {gid}"),
        (["-u", "{uid}"], "{uid} 0 0"),  # as with tcpserver
    ],
)
def test_names_of_user_and_group(of_nobody: Home, given: list[str], ids: str) -> None:
    """A name brings its group, unless -g says another."""
    user = pwd.getpwuid(NOBODY)
    names = {
        "user": user.pw_name,
        "uid": user.pw_uid,
        "gid": user.pw_gid,
        "group": grp.getgrgid(user.pw_gid).gr_name,
    }
    with Server(of_nobody, *(option.format(**names) for option in given)) as server:
        mail(server.port)
    assert (of_nobody.path / "seen").read_text().split() == ids.format(**names).split()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["-u", "no such"], "-u no such: there is no such user"),
        (["-u", ""], "-u : there is no such user"),
        (["-g", "-1"], "-g -1: there is no such group"),
        (["-u", "root"], "-u root: this user or its group is root"),
        (["-g", grp.getgrgid(0).gr_name], f"-g {grp.getgrgid(0).gr_name}: this group is root's"),
        (["-u", "0"], "-u wants a number from 1 to 4294967294"),
        (["-u", "4294967295"], "-u wants a number from 1 to 4294967294"),
    ],
)
def test_users_and_groups_that_cannot_be(home: Home, given: list[str], said: str) -> None:
    run = home.run(b"", *given, "127.0.0.1", "0", program="qsmtpd-server")
    assert (run.status, run.log.splitlines()[0]) == (111, f"qsmtpd-server: usage error: {said}")


def test_help_has_a_line_for_each_option(home: Home) -> None:
    letters = set(options._LETTERS.replace(":", ""))
    words = {word.rstrip("=") for word in options._WORDS}
    shown = home.run(b"", "--help", program="qsmtpd-server").out.decode()
    usage, _, lines = shown.partition("\n\n")
    assert usage.startswith("usage: qsmtpd-server ")
    named = [re.match(r" +(.{18}) \S", line) for line in lines.splitlines()]
    found = {name for line in named for name in re.findall(r"-(-?\w+)", line[1] if line else "?")}
    assert None not in named
    assert found == letters | {f"-{word}" for word in words | {"help", "version"}}
    page = (ROOT / "man/qsmtpd-server.8").read_text()
    items = " ".join(re.findall(r"^\.It Fl (.*)", page, re.MULTILINE))
    assert {word for word in re.findall(r"\w+", items) if len(word) == 1} == letters
    assert all(f".Fl -{word}" in page or f"Fl -{word} Ar" in page for word in words)


@pytest.mark.parametrize(
    ("call", "what"),
    [("setgroups", "the groups"), ("setgid", "to group 7"), ("setuid", "to user 8")],
)
def test_who_may_not_change_is_told(monkeypatch: pytest.MonkeyPatch, call: str, what: str) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, refuse if name == call else lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(OSError, match=f"cannot change {what}: Operation not permitted"):
        become(Options(["-g", "7", "-u", "8", "0", "0"], {}))


@ROOT_ONLY
def test_user_of_the_environment(of_nobody: Home) -> None:
    """-U, as envuidgid sets them."""
    of_nobody.environ |= {"UID": str(NOBODY), "GID": "12345"}
    with Server(of_nobody, "-U") as server:
        mail(server.port)
    assert (of_nobody.path / "seen").read_text() == f"{NOBODY}\n12345\n12345\n"


@ROOT_ONLY
def test_all_that_was_written_is_still_checked(of_nobody: Home) -> None:
    """/proc/self/fd, which says whether the queue read all, is ours also after the change."""
    of_nobody.environ["QMAILQUEUE"] = of_nobody.script("exec <&- ; sleep 0.2; cat <&1 >/dev/null")
    with Server(of_nobody, "-u", str(NOBODY), "-g", "12345") as server, server.client() as client:
        client.reply()
        assert client.deliver().startswith(b"451 ")


@ROOT_ONLY
def test_check_says_what_the_user_cannot_read(of_nobody: Home) -> None:
    home = of_nobody
    cdb = make_rules(home.path / "rules.cdb", ":allow")
    command: Command = [
        BIN / "qsmtpd-server",
        "--check",
        "-u",
        str(NOBODY),
        "-g",
        "12345",
        "-x",
        cdb,
        "0",
        "25",
    ]
    done = subprocess.run(command, env=home.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"ok: user = {NOBODY}, group 12345 " in done.stdout
    cdb.chmod(0o600)
    folder = home.control_dir / "servercerts" / "mail.example"
    folder.mkdir(parents=True)
    (folder / "servercert.pem").write_text("x")
    (folder / "servercert.pem").chmod(0o600)
    done = subprocess.run(command, env=home.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong: ")]
    assert [line.rpartition("/")[2] for line in wrong] == [
        "rules.cdb: Permission denied, so every client is dropped",
        "servercert.pem: Permission denied",
    ]


@ROOT_ONLY
@pytest.mark.parametrize("relative", [False, True])
def test_check_from_where_the_user_cannot_go(of_nobody: Home, relative: bool) -> None:
    """As from /root; with a QMAILHOME that is relative, also for the second rule."""
    closed = of_nobody.path / "closed"
    closed.mkdir(mode=0o700)
    cdb = make_rules(of_nobody.path / "rules.cdb", '192.0.2.1:allow,RELAYCLIENT=""', ":allow")
    done = subprocess.run(
        [BIN / "qsmtpd-server", "--check", "-u", str(NOBODY), "-x", cdb, "0", "25"],
        env={**of_nobody.environ, **({"QMAILHOME": "."} if relative else {})},
        cwd=of_nobody.path if relative else closed,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"ok: home = {of_nobody.path}" in done.stdout
    assert "rule 192.0.2.1" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["-u", "joe", "0", "25"],
        ["-u", "0", "0", "25"],
        ["-C", "-1", "0", "25"],
        ["--sessions", "0", "0", "25"],
        ["-c", "0", "0", "25"],
        ["-U", "0", "25"],
        ["--quiet", "0", "25"],
        ["0", "65536"],
        ["-B", "hello", "0", "25"],
    ],
)
def test_usage(home: Home, arguments: list[str]) -> None:
    run = home.run(b"", *arguments, program="qsmtpd-server")
    assert run.status == 111
    assert "usage: qsmtpd-server" in run.log
