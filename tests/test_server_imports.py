"""What sessions import late is in server/imports.py: processes that serve import nothing."""

from __future__ import annotations

import ast
import base64
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import milters
import pytest
from cdbs import make_cdb
from certificates import Certificate
from client import PATIENCE, Client, client_context
from daemons import Peer, clamd, http, policy, rspamd, spam, spamd, userdb
from dkim_signer import Ed25519Key, RsaKey, sign
from dns_server import DnsServer
from harness import BIN, PROGRAMS, ROOT, Home, wait_for
from hubs import Hub
from listeners import Server, listening, make_rules
from netstrings import handed, package
from proxying import v2, vector
from scram_home import JOE, SEED, log_in
from scram_home import client as scram_client
from test_server import NOBODY, ROOT_ONLY
from tls_home import AUTHORITY, SERVER

from qsmtpd.facts import rare
from qsmtpd.policy.spec import BUILT_IN
from qsmtpd.server import imports
from qsmtpd.smtp.sasl import MECHANISMS

#: (module, what it imports within a function): the tables of imports.py that have it.
CORE = {
    ("policy.hooks", "policy.backend"): imports._PLUGINS,
    ("policy.hooks", "policy.spool"): imports._INSPECTION,
    ("policy.load", "policy.external"): imports._PLUGINS,
    ("policy.load", "policy.timelimit"): imports._PLUGINS,
    ("server.worker", "policy.running"): imports._PLUGINS,
    ("server.worker", "policy.timelimit"): imports._PLUGINS,
    ("session.commands", "facts.rare"): imports._AUTH,
    ("session.commands", "session.auth"): imports._AUTH,
    ("session.commands", "session.dovecot"): imports._AUTH,
    ("session.commands", "session.starttls"): imports._TLS,
    ("session.connection", "policy.timelimit"): imports._PLUGINS,
    ("session.connection", "session.starttls"): imports._TLS,
    ("session.connection", "tls.provider"): imports._TLS,
    ("session.data", "session.inspection"): imports._INSPECTION,
}
COLD, START, PLAN = "a cold child's", "at the start, or for --check", "when a plan is made"
#: The same: why no process comes there while it serves, or why it may.
EXCEPTIONS = {
    ("config.session", "config.mechanisms"): PLAN,
    ("config.session", "net.dovecotauth"): PLAN,
    ("config.session", "net.proxyhosts"): PLAN,
    ("config.session", "policy.lines"): PLAN,
    ("diagnose.dryrun", "OpenSSL"): START,
    ("facts", "facts.rare"): "see those that ask for it",
    ("filters.badmailfrom", "filters.wildmat"): PLAN,
    ("filters.greylist", "filters.wildmat"): PLAN,
    ("filters.libraries", "site"): PLAN,
    ("filters.scan", "net.spamd"): PLAN,
    ("filters.spflibrary", "spf"): "when spfquery.py is imported",
    ("filters.spflibrary", "types"): "when spfquery.py is imported",
    ("filters.wildmat", "filters.expression"): PLAN,
    ("policy.external", "site"): PLAN,
    ("policy.load", "policy.lines"): PLAN,
    ("server.deaths", "policy.running"): "the master's, before it forks",
    ("server.imports", "tls.provider"): PLAN,
    ("server.main", "server.permissions"): START,
    ("server.options", "grp"): START,
    ("server.options", "qmtp"): START,
    ("server.options", "qmtp.qmqp"): START,
    ("server.options", "qmtp.qmtp"): START,
    ("server.warmup", "policy.timelimit"): PLAN,
    ("server.warmup", "tls.context"): PLAN,
    ("session.connection", "session.proxied"): COLD,
    ("session.plan", "tls.provider"): PLAN,
    ("session.verifiers", "child.conversation"): "for SCRAM, whose table has it",
    ("smtp.utf8", "idna"): "the first client who wants it: see for_utf8()",
    ("smtp.utf8", "site"): "where idna is not to be found",
    ("smtp.utf8", "unicodedata"): "as idna, which has it",
    ("tls.context", "tls.authorities"): PLAN,
    ("tls.openssl", "tls.authorities"): "the context of who asks for certificates has it",
    ("tls.provider", "OpenSSL.SSL"): PLAN,
    ("tls.provider", "site"): PLAN,
    ("tls.provider", "threading"): PLAN,
    ("tls.provider", "tls.ucspitls"): PLAN,
    ("tls.settings", "tls.clients"): PLAN,
    ("tls.settings", "tls.pairs"): PLAN,
}


@functools.cache
def path_of(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for found in (path.with_suffix(".py"), path / "__init__.py"):
        if found.exists():
            return found
    return None


@functools.cache
def imported(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a module of the package imports when it is imported, and what in its functions."""
    path = path_of(name)
    if path is None:
        return frozenset(), frozenset()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    top: set[str] = set()
    late: set[str] = set()

    def look(node: ast.AST, found: set[str]) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                look(other, found)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name for each in _named(node, package) for name in _with_packages(each)}
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            found = late
        for each in ast.iter_child_nodes(node):
            look(each, found)

    look(ast.parse(path.read_text()), top)
    return frozenset(top), frozenset(late)


def _named(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    parts = package.split(".")
    base = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
    base = ".".join(filter(None, (base, node.module)))
    for alias in node.names:
        if base == "qsmtpd.facts" and hasattr(rare, alias.name):
            yield "qsmtpd.facts.rare"
        yield f"{base}.{alias.name}" if path_of(f"{base}.{alias.name}") else base


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: number + 1]) for number in range(len(parts)))


def loaded(names: Iterable[str]) -> set[str]:
    """These modules, and all that they import when they are imported."""
    found: set[str] = set()
    new = {each for name in names for each in _with_packages(name)}
    while new:
        found |= new
        new = {each for name in new for each in imported(name)[0]} - found
    return found


def reachable(names: Iterable[str], base: set[str]) -> set[str]:
    """These and all that they ever import, as long as it is in no server from the start."""
    found: set[str] = set()
    new = set(names)
    while new:
        found |= new
        new = {each for name in new for part in imported(name) for each in part} - found - base
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What is in a server for which next to nothing is set."""
    home = Home(tmp_path_factory.mktemp("home"))
    code = """
import sys
from qsmtpd.server import imports, main, warmup
from qsmtpd.server.options import Options
options = Options(["127.0.0.1", "25"], {})
imports.at_start(options)
assert warmup.preload({b"QMAILHOME": sys.argv[1].encode()}, [], options.protocol).serves
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, home.path], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    home.end()
    return set(done.stdout.decode().split())


def missing(names: Iterable[str], have: set[str]) -> list[tuple[str, str]]:
    """What these modules import late and is not there by then: names without `qsmtpd.`."""
    found = [
        (name.removeprefix("qsmtpd."), each.removeprefix("qsmtpd."))
        for name in sorted(names)
        for each in sorted(imported(name)[1] - have - set(sys.builtin_module_names))
    ]
    return [pair for pair in found if pair not in EXCEPTIONS]


def test_sessions(base: set[str]) -> None:
    """All that a server of nothing has: what that imports late, it does for settings of a kind."""
    assert missing(base, base) == sorted(CORE)
    for (_, late), table in CORE.items():
        assert f"qsmtpd.{late}" in loaded(table), late


def test_no_exception_is_of_the_past() -> None:
    for name, late in [*CORE, *EXCEPTIONS]:
        assert {late, f"qsmtpd.{late}"} & imported(f"qsmtpd.{name}")[1], (name, late)
    assert "qsmtpd.child.conversation" in imports._SCRAM


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_filter(name: str, base: set[str]) -> None:
    module = f"qsmtpd.filters.{name}"
    have = base | loaded([module, *imports._FILTERS.get(name, ())])
    assert not missing(reachable([module], base), have)


@pytest.mark.parametrize(
    "table",
    [imports._INSPECTION, imports._PLUGINS, imports._TLS + imports._OPENSSL],
)
def test_a_table(table: tuple[str, ...], base: set[str]) -> None:
    assert not missing(reachable(table, base), base | loaded(table))


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism(name: bytes, base: set[str]) -> None:
    auth = SimpleNamespace(mechanisms=(name,))
    names = imports._of_auth(auth)  # type: ignore[arg-type]  # all that it looks at
    assert not missing(reachable(names, base), base | loaded(names))


def test_the_other_protocols(base: set[str]) -> None:
    names = ["qsmtpd.qmtp.qmtp", "qsmtpd.qmtp.qmqp", *imports._PACKAGES]
    assert not missing(reachable(names, base), base | loaded(names))


# -- servers, with an ear at each import -----------------------------------------------

#: The program, as its launcher runs it; each import in a process that is not the first one
#: is a line of the file. argv: the checkout, that file.
WATCHED = """
import os, sys
root, trace = sys.argv[1:3]
master = os.getpid()
def hear(event, facts):
    if event == "import" and os.getpid() != master:
        fd = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(fd, b"%d %s\\n" % (os.getpid(), os.fsencode(facts[0])))
        os.close(fd)
sys.addaudithook(hear)
sys.path.append(root)
from qsmtpd.start import launch
launch(root + "/", "qsmtpd.server.main", sys.argv[3:])
"""
KEY, OTHER_KEY = RsaKey(2048), Ed25519Key()
ZONE = f"""
    me.example       A    127.0.0.1
    b.example        MX   10 me.example
    b.example        TXT  "v=spf1 include:spf.b.example exists:%{{ir}}.b.example mx ptr -all"
    spf.b.example    TXT  "v=spf1 ip6:2001:db8::/32 ip4:127.0.0.0/8 -all"
    _dmarc.b.example TXT  "v=DMARC1; p=reject"
    1.0.0.127.in-addr.arpa  PTR  me.example
    {KEY.record("s._domainkey.b.example")}
    {OTHER_KEY.record("t._domainkey.b.example")}
"""
#: Files with names and words in charsets, a part that is a program, and a wrong date.
CONTENT = """\
From: a@b.example
Date: 1 Jan 2026 00:00:00 -0000
Subject: =?koi8-r?B?8NLJ18XU?= =?windows-1251?Q?=CF?= =?utf-8?q?=EF=BC=A1?= \udcff
Authentication-Results: mx.example; spf=pass
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: text/plain; name="=?gb2312?B?1tA=?=.txt"
Content-Disposition: attachment; filename*=iso-8859-2''%B1%EF%BC%A5.txt

text
--x
Content-Type: application/octet-stream
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="\uff41.txt"

AAAAAAAAAAAAAAAAAAAAAAAAAAAA
--x--
""".encode("utf-8", "surrogateescape")


#: The same of what the user of -u imports.
CHECKED = WATCHED.replace("os.getpid() != master", "os.getuid() != 0")


class Watched(Server):
    """A server of which we hear what its processes import."""

    def __init__(self, home: Home, *options: str, code: str = WATCHED, root: Path = ROOT) -> None:
        self.trace = home.path / "imports"
        program: list[str | Path] = [sys.executable, "-IS", "-c", code, root, self.trace]
        super().__init__(home, *options, run=program)

    def imported(self) -> set[str]:
        """What those have that have served somebody."""
        served = {event["pid"] for event in self.events("session")}
        assert served
        text = self.trace.read_text() if self.trace.exists() else ""
        return {name for pid, name in map(str.split, text.splitlines()) if pid in served}

    def sessions(self, number: int) -> None:
        """Wait until there have been so many."""
        wait_for(lambda: len(self.events("session")) >= number)


def signed(text: bytes) -> bytes:
    options = {"domain": "b.example", "headers": "From:Date"}
    text = sign(text, KEY, **options)  # type: ignore[arg-type]
    text = sign(text, OTHER_KEY, selector="t", **options)  # type: ignore[arg-type]
    return text.replace(b"\n", b"\r\n")


@pytest.mark.sample(2)
@pytest.mark.parametrize("options", [(), ("--sessions", "1")], ids=str)
def test_filters(home: Home, options: tuple[str, ...]) -> None:
    """As many as there can be at once, and a message that gives each of them something to do."""
    for name, line in {
        "badattachments": "re:.*\\.exe",
        "badheaders": "re:subject:[ ]bad.*",
        "badhelo": "*bad*",
        "badmailfrom": "*@*.bad.example",
        "badrcptto": "re:bad@.*",
        "dkim": "",
        "dmarcpolicy": "reject",
        "dnsbls": "bl.example",
        "fcrdns": "note",
        "loopcheck": "1",
        "recipients": "*|true",
        "rhsbls": "bl.example",
        "sendlimits": "client:* messages=1000000/hour",
        "smtpplugins": "[mail]\n:echo N\n[rcpt]\n/bin/true",
        "spfbehavior": "3",
    }.items():
        home.control(name, line)
    for name in ("badmimetypes", "badloadertypes"):
        make_cdb(home.control_dir / f"{name}.cdb", {b"TVqQA": b""})
    home.environ |= {
        **dict.fromkeys(("AUTHRESULTS", "BADLOADERTYPE", "BADMIMETYPE", "MFDNSCHECK"), ""),
        **dict.fromkeys(("MESSAGECHECK", "RCPTCHECK"), "/bin/true"),
        **dict.fromkeys(("CLIENTLIMIT", "KARMALIMIT", "MAXNOTIMPL"), "99"),
        **dict.fromkeys(("LOCALMFCHECK", "RBLSMTPD"), ""),
        "DATEPAST": "999999",
        "GREYLIST": "0",
        "HELOCHECK": "A",
        "LOGFORMAT": "spamcontrol",
        "QSMTPD_STORE": "store",
        "TARPITCOUNT": "50",
    }
    daemons = {
        "clamd": clamd(lambda message: b"stream: OK\n"),
        "dovecotusers": userdb(b"x@ok.example"),
        "milters": milters.script(
            {b"E": milters.packet(b"h", b"X-A", b"1") + milters.CONTINUE}, milters.ALL_ACTIONS
        ),
        "policyservers": policy(lambda facts: b"DUNNO"),
        "rspamd": rspamd(
            lambda head, message: http(
                b'{"action": "no action", "score": 0.1, "required_score": 15, "symbols": {}}'
            )
        ),
        "spamd": spamd(lambda head, message: spam(b"0.1")),
    }
    with ExitStack() as stack:
        dns = stack.enter_context(DnsServer(ZONE))
        home.environ["DNSCACHEIP"] = dns.where
        for name, script in daemons.items():
            peer = stack.enter_context(Peer(script, home.path / name))
            home.control(name, peer.address)
        with Watched(home, *options) as server:
            texts = CONTENT, CONTENT.replace(b"koi8-r", b"gbk"), b"Subject: bad\n\n"
            for number, text in enumerate(texts, 1):
                with server.client() as client:
                    client.reply()
                    client.ask(b"EHLO me.example", b"NOOP", b"XYZ")
                    reply = client.deliver(signed(text), b"a@b.example")
                    client.ask(b"MAIL FROM:<x@y.bad.example>", b"RSET", b"VRFY x")
                    client.quit()
                server.sessions(number)
                assert reply.startswith(b"250 " if text[:4] == b"From" else b"5"), server.log()
            assert server.imported() == set()
    assert b"X-A: 1" in home.messages()[0].text
    header = home.messages()[0].text
    assert b"dkim=pass" in header and b"spf=pass" in header and b"dmarc=pass" in header


@pytest.mark.slow
def test_auth_in_clear(submission: Home) -> None:
    """By every mechanism; and who tries what is not there."""
    (submission.control_dir / "servercert.pem").unlink()
    checkpassword = BIN / "qsmtpd-checkpassword"
    submission.control("smtpusers", SEED, JOE)
    submission.arguments = [str(checkpassword), "true"]
    submission.environ |= {
        "AUTHMECHANISMS": "SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5 OAUTHBEARER XOAUTH2",
        "SCRAMPROGRAM": f"{checkpassword} --scram",
        "CRAMPROGRAM": str(checkpassword),
        "TOKENPROGRAM": "/bin/true",
        "MAXAUTHFAILURES": "9",
    }
    bearer = base64.b64encode(b"n,a=joe,\1auth=Bearer x\1\1")
    with Watched(submission, "--sessions", "9") as server:
        tried: dict[bytes, Callable[[Client], bytes]] = {
            b"CRAM-MD5": lambda c: c.ask(b"AUTH CRAM-MD5", base64.b64encode(b"joe " + b"0" * 32)),
            b"LOGIN": lambda c: c.ask(b"AUTH LOGIN", b"am9l", b"c2VjcmV0"),
            b"OAUTHBEARER": lambda c: c.ask(b"AUTH OAUTHBEARER " + bearer),
            b"PLAIN": lambda c: c.ask(b"AUTH PLAIN AGpvZQBzZWNyZXQ="),
            b"SCRAM-SHA-256": lambda c: log_in(c, scram_client()),  # type: ignore[arg-type]
            b"XOAUTH2": lambda c: c.ask(b"AUTH XOAUTH2 dXNlcj1qb2UBYXV0aD1CZWFyZXIgeAEB"),
        }
        for number, name in enumerate(sorted(tried), 1):
            with server.client() as client:
                client.reply()
                client.ask(b"STARTTLS", b"AUTH XX", b"EHLO x")
                reply = tried[name](client)
                assert reply.startswith(b"535 " if name == b"CRAM-MD5" else b"235 "), (name, reply)
                assert client.deliver().startswith(b"250 ")
                client.quit()
            server.sessions(number)
        assert server.imported() == set()


@pytest.mark.slow
def test_tls(inside: Home) -> None:
    """STARTTLS with a name of SNI, with certificates of clients, and TLS that is done in front."""
    (inside.control_dir / "clientca.pem").write_bytes(AUTHORITY.pem)
    inside.control("proxytls", "on")
    inside.control("proxyhosts", "127.0.0.9")
    folder = inside.control_dir / "servercerts" / "other.example"
    folder.mkdir(parents=True)
    SERVER.save(folder / "servercert.pem")
    good = Certificate("client", issuer=AUTHORITY, address="me@b.example")
    certificates = [good, Certificate("somebody")]
    with Watched(inside) as server:
        for number, certificate in enumerate(certificates):
            path = certificate.save(inside.path / f"{number}.pem")
            with server.client() as client:
                client.reply()
                client.starttls(client_context(path), "other.example" if number else None)
                client.ask(b"EHLO x")
                assert client.deliver().startswith(b"250 ")
                client.ask(b"QUIT")
            server.sessions(number + 1)
        inner = vector(0x21, b"TLSv1.3") + vector(0x23, b"TLS_AES_256_GCM_SHA384")
        more = vector(0x20, b"\1\0\0\0\0" + inner)
        header = v2(0x11, "198.51.100.7", "203.0.113.25", 40000, 25, more)
        with server.client("127.0.0.9") as client:
            client.socket.sendall(header)
            client.reply()
            client.ask(b"EHLO x")
            assert client.deliver().startswith(b"250 ")
            client.quit()
        server.sessions(3)
        assert server.events("tls")[2]["pid"] == server.events("session")[2]["pid"]
        assert server.imported() == set()


@pytest.mark.slow
def test_a_plugin_and_a_hub(home: Home) -> None:
    """One from elsewhere, and a message that is held back for hubs, in a file."""
    change = ROOT / "tests" / "plugins" / "decide.py"
    home.control("plugins", f"{change} at=data_post spool=yes header=X-A:%20b", "builtins")
    home.environ["QMQPQUEUE"] = "on"
    with Hub() as hub:
        home.control("qmqpservers", hub.where)
        with Watched(home) as server:
            with server.client() as client:
                client.reply()
                assert client.deliver((b"x" * 70 + b"\r\n") * 20_000).startswith(b"250 ")
                client.quit()
            server.sessions(1)
            assert server.imported() == set()
        assert len(hub.taken) == 1


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["qmtp", "qmqp"])
def test_a_large_package(home: Home, protocol: str) -> None:
    home.environ["QMQPCLIENT"] = ""
    with Watched(home, "--protocol", protocol) as server:
        text = b"Subject: x\n\n" + b"x" * 2_000_000
        with server.client() as client:
            if protocol == "qmtp":
                client.socket.sendall(package(b"x@ok.example", message=b"\n" + text))
            else:
                client.socket.sendall(handed(b"x@ok.example", message=text))
            answer = client.socket.recv(99)
            assert b":K" in answer, answer
        server.sessions(1)
        assert server.imported() == set()


@pytest.mark.slow
def test_where_nobody_can_be_served(home: Home) -> None:
    home.control("databytes", "many")
    cdb = make_rules(home.path / "rules.cdb", ":allow")
    with Watched(home, "-x", str(cdb)) as server:
        with server.client() as client:
            assert client.reply().startswith(b"421 ")
        server.sessions(1)
        assert server.imported() == set()


@pytest.mark.sample(2)
@pytest.mark.parametrize("sessions", ["1", "9"])
def test_a_rule_that_is_new(home: Home, sessions: str) -> None:
    """What it wants is imported once for all, and no process that has served others serves it."""
    path = home.path / "rules.cdb"
    SERVER.save(home.path / "server.pem")
    home.arguments = [str(PROGRAMS / "checker"), "true"]
    home.environ["AUTHDELAY"] = "0"
    make_cdb(home.control_dir / "badmimetypes.cdb", {b"TVqQA": b""})  # only this rule asks for it
    make_rules(path, ":allow")
    rule = "".join(
        f',{name}="{value}"'
        for name, value in {
            "AUTHCLEAR": "1",
            "BADMIMETYPE": "",
            "GREYLIST": "0",
            "QMAILQUEUE": home.script(
                'cat >/dev/null; cat <&1 >/dev/null; echo >"$QMAILHOME/mine"'
            ),
            "SEEN": str(home.path / "seen"),
            "SERVERCERT": str(home.path / "server.pem"),
            "SMTPAUTH": "",
            "SMTPUTF8": "on",
        }.items()
    )
    with Watched(home, "--sessions", sessions, "-x", str(path)) as server:

        def serve(source: str, number: int) -> None:
            with server.client(source) as client:
                client.reply()
                if source != "127.0.0.1":
                    client.starttls()
                client.ask(b"EHLO x")
                if source != "127.0.0.1":
                    assert client.ask(b"AUTH PLAIN AGpvZQBzZWNyZXQ=").startswith(b"235 ")
                assert client.deliver().startswith(b"250 ")
                client.ask(b"QUIT")
            server.sessions(number)
            assert server.imported() == set()

        serve("127.0.0.1", 1)
        make_rules(path, f"127.0.0.2:allow{rule}", ":allow")
        serve("127.0.0.2", 2)
        assert (home.path / "mine").exists() and len(home.messages()) == 1
        serve("127.0.0.1", 3)
        serve("127.0.0.2", 4)
        pids = [event["pid"] for event in server.events("session")]
        assert len(set(pids)) == (4 if sessions == "1" else 2) and pids[0] != pids[1]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["filters/badmimetypes.py", "session/auth.py"])
def test_code_that_is_half_written(home: Home, file: str) -> None:
    """As in the midst of an upgrade: who has that rule is told 421, and nobody else."""
    home.arguments = [str(PROGRAMS / "checker"), "true"]
    make_cdb(home.control_dir / "badmimetypes.cdb", {b"TVqQA": b""})
    make_rules(home.path / "rules.cdb", ":allow")
    package = shutil.copytree(ROOT / "qsmtpd", home.path / "other" / "qsmtpd")
    with Watched(home, "-x", str(home.path / "rules.cdb"), root=package.parent) as server:
        (package / file).write_text("def half(:\n")
        rule = 'BADMIMETYPE="",SMTPAUTH="",AUTHCLEAR="1"'
        make_rules(home.path / "rules.cdb", f"127.0.0.2:allow,{rule}", ":allow")
        with server.client("127.0.0.2") as client:
            reply = client.reply()
            if reply.startswith(b"220 "):
                reply = client.ask(b"EHLO x", b"AUTH PLAIN AGpvZQBzZWNyZXQ=")
            assert reply.startswith(b"421 ")
        assert server.session(b"HELO x", b"QUIT")[1:] == [b"250 mx.example", b"221 mx.example"]


@pytest.mark.slow
def test_a_library_for_few(home: Home) -> None:
    """Where idna is missing, the server says so at once, and where it is not, it has it not."""
    missing = WATCHED.replace("import os, sys", "import os, sys; sys.modules['idna'] = None")
    for code in (WATCHED, missing):
        with Watched(home, code=code) as server:
            maps = Path(f"/proc/{server.pid}/maps").read_text()
            said = [event["name"] for event in server.events("control")]
            assert said == ([] if code == WATCHED else ["Python's idna"])
            assert "unicodedata" not in maps
            assert server.session(b"HELO x", b"QUIT")[1].startswith(b"250 ")


@ROOT_ONLY
@pytest.mark.slow
@pytest.mark.parametrize("on", ["tls", "filters"])
def test_a_user_who_cannot_read_python(of_nobody: Home, on: str) -> None:
    """What HUP switches on is there; here and in many places /root is root's alone."""
    home = of_nobody
    home.environ["QSMTPD_STORE"] = str(home.path / "store")
    package = shutil.copytree(ROOT / "qsmtpd", home.path / "closed" / "qsmtpd").parent
    package.chmod(0o700)
    with Watched(home, "-u", str(NOBODY), "-g", str(NOBODY), root=package) as server:
        assert server.session(b"HELO x")[1].startswith(b"250 ")
        if on == "tls":
            SERVER.save(home.control_dir / "servercert.pem").chmod(0o644)
            home.control("smtputf8", "on")
        else:
            home.control("badheaders", "re:subject:[ ]bad.*")
            home.control("greylist", "0")
            home.control("proxyhosts", "127.0.0.9")
            home.control("sendlimits", "client:* messages=1000000/hour")
        server.reload()
        assert "not read anew" not in server.log()
        with server.client() as client:
            client.reply()
            if on == "tls":
                client.starttls()
            assert client.deliver().startswith(b"250 ")
            client.ask(b"QUIT")
        server.sessions(2)
        assert server.imported() == set()


@ROOT_ONLY
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["smtp", "qmqp"])
def test_a_check_of_a_user_who_cannot_read_python(of_nobody: Home, protocol: str) -> None:
    """It says what is wrong with the settings, and not that a module is missing."""
    home = of_nobody
    certificate = Certificate("mx.example", common=True)
    certificate.save(home.control_dir / "servercert.pem").chmod(0o644)
    (home.control_dir / "clientca.pem").write_bytes(AUTHORITY.pem)
    for name, line in {
        "badattachments": "re:.*\\.exe",
        "dkim": "",
        "dmarcpolicy": "reject",
        "dnsbls": "bl.example",
        "dovecotauth": "/nonexistent",
        "greylist": "0",
        "milters": "unix:/nonexistent",
        "policyservers": "unix:/nonexistent",
        "proxyhosts": "127.0.0.9",
        "qmqpclients": "127.0.0.1",
        "qmqpservers": "127.0.0.1:1",
        "rspamd": "http://127.0.0.1:1/",
        "sendlimits": "client:* messages=1000000/hour",
        "smtputf8": "on",
        "spfbehavior": "3",
    }.items():
        home.control(name, line)
    home.environ |= {"QSMTPD_STORE": str(home.path / "store"), "DNSCACHEIP": "127.0.0.1:1"}
    package = shutil.copytree(ROOT / "qsmtpd", home.path / "closed" / "qsmtpd").parent
    package.chmod(0o700)
    trace = home.path / "imports"
    program: list[str | Path] = [sys.executable, "-IS", "-c", CHECKED, package, trace, "--check"]
    arguments = ["-u", str(NOBODY), "-g", str(NOBODY), "--protocol", protocol, "127.0.0.1", "0"]
    done = subprocess.run(
        [*program, *arguments],
        env=listening(home),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "\nwrong: control/milters: unix:/nonexistent gives no answer" in done.stdout
    assert "Error" not in done.stdout + done.stderr
    assert not trace.exists(), trace.read_text()


def test_no_process_to_try_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it counts as what cannot be."""

    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    assert imports._works(lambda: None) and not imports._works(lambda: 1 / 0)
    monkeypatch.setattr(os, "fork", fork)
    assert not imports._works(lambda: None)
