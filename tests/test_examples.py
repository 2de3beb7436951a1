"""The examples are run as they are, but for names, folders and ports: mail arrives.

Where a user is changed to, the user is ourselves: who runs the tests need not be root.
"""

from __future__ import annotations

import configparser
import os
import pwd
import re
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import netstrings
import pytest
from certificates import Certificate
from client import PATIENCE, Client, client_context
from dkim_signer import RsaKey, sign
from dns_server import DnsServer
from harness import BIN, ROOT, Home, needs, wait_for
from listeners import listening, mail, make_rules
from ports import free_port
from proxying import v1
from tls_home import SERVER
from tools import find

EXAMPLES = ROOT / "man/examples"
USER = pwd.getpwuid(os.geteuid()).pw_name

#: Programs that are not everywhere, or want to be root.  softlimit's limit is the real one.
STAND_INS = {
    "id": "echo 0",  # which tcpserver takes for: stay who you are
    "setuidgid": 'shift; exec "$@"',
    "softlimit": '[ "$1" = -m ] && ulimit -v $(($2 / 1024)) && shift 2 && exec "$@"',
}
#: s6-networking is not in Debian.  What comes before it has to have set UID and GID.
S6_NETWORKING = {
    "s6-tcpserver": '[ "$1 $2 $3" = "-U -c 40" ] && shift 3 || exit 100\n'
    '[ -n "$UID" ] && [ -n "$GID" ] && exec tcpserver -HR "$@"',
    "s6-tcpserver-access": '[ "$1" = -l ] && export TCPLOCALHOST="$2" && shift 2 && exec "$@"',
}


class Place:
    """A home, and the programs and the port that an example finds in place of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.port = free_port()
        self.log = home.path / "log"
        self.folder = home.path / "stand-ins"
        path = os.pathsep.join([str(self.folder), os.environ["PATH"], "/usr/sbin", "/sbin"])
        self.environ = {**listening(home), "PATH": path}
        for name, text in STAND_INS.items():
            self.program(name, text)

    def program(self, name: str, text: str) -> None:
        path = self.home.file(f"stand-ins/{name}", f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def real(self, name: str) -> None:
        """This program has to be there."""
        self.program(name, f'exec {needs(name)} "$@"')

    def adapt(self, name: str, *changes: tuple[str, str]) -> Path:
        """The example, after these changes, each of something that has to be there."""
        text = (EXAMPLES / name).read_text().replace("/usr/local/bin/", f"{BIN}/")
        for old, new in changes:
            assert old in text, f"{old} is not in {name}"
            text = text.replace(old, new)
        path = self.home.file(name, text)
        path.chmod(0o755)
        return path

    @contextmanager
    def running(self, *command: str | Path) -> Iterator[None]:
        with self.log.open("wb") as log:
            server = subprocess.Popen(
                command, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            server.terminate()
            server.wait(PATIENCE)

    def client(self, source: str = "127.0.0.1") -> smtplib.SMTP:
        """A client at this address, once there is a listener."""

        def connect() -> smtplib.SMTP | None:
            try:
                return smtplib.SMTP(
                    "127.0.0.1",
                    self.port,
                    timeout=PATIENCE,
                    local_hostname="me.example",
                    source_address=(source, 0),
                )
            except ConnectionRefusedError:
                return None

        return wait_for(connect)

    def mail(self, to: str) -> None:
        """Send a message; it is there, and its session has been logged, with the right names."""
        with self.client() as client:
            client.sendmail("a@b.example", [to], "Subject: x\r\n\r\nhi\r\n")
        wait_for(lambda: "event=session" in self.log.read_text())
        assert "ip=127.0.0.1 end=quit" in self.log.read_text()

    def arrived(self) -> None:
        (message,) = self.home.messages()
        assert b"by mx.example.org with ESMTP" in message.text
        assert message.body == b"Subject: x\n\nhi\n"


@pytest.fixture
def place(home: Home) -> Place:
    return Place(home)


def listener(place: Place) -> tuple[str, str]:
    return "0 smtp", f"127.0.0.1 {place.port}"


def rules(place: Place) -> tuple[str, str]:
    """The rules of the example let this machine relay."""
    lines = (EXAMPLES / "daemontools/tcp.smtp").read_text().splitlines()
    return "/etc/tcp.smtp.cdb", str(make_rules(place.home.path / "rules.cdb", *lines))


@pytest.mark.slow
def test_daemontools(place: Place) -> None:
    place.real("tcpserver")
    run = place.adapt("daemontools/run", listener(place), rules(place))
    with place.running(run):
        place.mail("x@elsewhere.example")
    place.arrived()


@pytest.mark.slow
def test_qsmtpd_server(place: Place) -> None:
    needs("tcprules")
    run = place.adapt("qsmtpd-server/run", listener(place), rules(place), ("-u qmaild ", ""))
    with place.running(run):
        place.mail("x@elsewhere.example")
    place.arrived()


@pytest.mark.slow
def test_several_mx(place: Place) -> None:
    """A sender who goes through their list is served by the next one where the first is down."""
    needs("tcprules")
    (place.home.path / "other").mkdir()
    other = Place(Home(place.home.path / "other"))

    def run(each: Place) -> Path:
        changes = (listener(each), rules(each), ("-u qmaild ", ""))
        return each.adapt("qsmtpd-server/run", *changes)

    def send(*ports: int) -> None:
        for port in ports:
            try:
                mail(port)
                return
            except ConnectionRefusedError:
                pass

    with other.running(run(other)):
        with place.running(run(place)):
            for each in (place, other):
                each.client().quit()
            send(place.port, other.port)
            assert (len(place.home.messages()), len(other.home.messages())) == (1, 0)
        send(place.port, other.port)
        assert (len(place.home.messages()), len(other.home.messages())) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("under", ["qsmtpd-server", "tcpserver"])
def test_behind_a_balancer(place: Place, under: str) -> None:
    """Whom the header names has what the rules say of it; haproxy.cfg is in test_haproxy.py."""
    balancer = "127.0.0.53"
    changes = [listener(place), rules(place), ("=192.0.2.10 ", f"={balancer} ")]
    if under == "tcpserver":
        place.real("tcpserver")
        text = (EXAMPLES / "haproxy/tcp.balancer").read_text()
        assert "\n192.0.2.10:" in text
        lines = text.replace("192.0.2.10", balancer).splitlines()
        cdb = make_rules(place.home.path / "balancer.cdb", *lines)
        run = place.adapt("haproxy/run-tcpserver", *changes, ("/etc/tcp.balancer.cdb", str(cdb)))
    else:
        needs("tcprules")
        run = place.adapt("haproxy/run", *changes, ("-u qmaild ", ""))

    def connect() -> Client | None:
        try:
            return Client.connect(place.port, balancer)
        except ConnectionRefusedError:
            return None

    with place.running(run), wait_for(connect) as client:
        client.send(v1("TCP4", "127.0.0.1", "203.0.113.25", 40000, 25))
        client.reply()
        assert client.deliver(recipient=b"x@elsewhere.example").startswith(b"250 ok ")
        client.quit()
        wait_for(lambda: "event=session" in place.log.read_text())
        line = 'ip=127.0.0.1 end=quit reply="[^"]*" proxy=127.0.0.53 '
        assert re.search(line, place.log.read_text())
    (message,) = place.home.messages()
    assert b"(127.0.0.1)" in message.text


@pytest.mark.slow
def test_without_qmail(place: Place) -> None:
    place.real("tcpserver")
    home = place.home.path
    folders = (("/etc/qsmtpd ", f"{home} "), ("/var/spool/qsmtpd/", f"{home}/"))
    with place.running(place.adapt("maildir/run", listener(place), *folders)):
        place.mail("x@ok.example")
    (path,) = (home / "Maildir/new").iterdir()
    assert path.read_bytes().endswith(b"Subject: x\n\nhi\n")


@pytest.mark.slow
def test_qmtp(place: Place) -> None:
    place.real("tcpserver")
    run = place.adapt("qmtp/run", ("0 209", f"127.0.0.1 {place.port}"), rules(place))
    with place.running(run):
        said = exchange(place, netstrings.package(b"x@elsewhere.example"))
    assert netstrings.verdicts(said) == [b"Kok"]
    assert b"by mx.example.org with QMTP" in place.home.messages()[0].text


@pytest.mark.slow
def test_qmqp(place: Place) -> None:
    place.home.control("qmqpclients", "127.0.0.0/8")
    run = place.adapt("qmqp/run", ("0 628", f"127.0.0.1 {place.port}"), ("-u qmaild ", ""))
    with place.running(run):
        said = exchange(place, netstrings.handed(b"x@elsewhere.example"))
    assert netstrings.verdicts(said) == [b"Kok"]
    assert b"by hub.example.org with QMQP" in place.home.messages()[0].text


def hub(path: Path) -> Place:
    """One of the example, for front ends on this machine; each has a place of its own."""
    path.mkdir()
    place = Place(Home(path))
    controls(place.home, "hubs/hub/control", ("192.0.2.21", "127.0.0.1"))
    assert place.home.run(b"", "--check", program="qsmtpd-qmqpd").status == 0
    return place


def controls(home: Home, folder: str, *changes: tuple[str, str]) -> None:
    """The control files of an example, after these changes."""
    for path in home.control_dir.iterdir():
        path.unlink()
    for path in (EXAMPLES / folder).iterdir():
        text = path.read_text()
        for old, new in changes:
            text = text.replace(old, new)
        (home.control_dir / path.name).write_text(text)


@pytest.mark.slow
def test_front_ends_and_hubs(place: Place, tmp_path: Path) -> None:
    """And what happens when the parts end, as the page has it."""
    needs("tcprules")
    one, other = hub(place.home.path / "hub1"), hub(place.home.path / "hub2")
    ports = (("192.0.2.11", f"127.0.0.1:{one.port}"), ("192.0.2.12", f"127.0.0.1:{other.port}"))
    controls(place.home, "hubs/front/control", *ports)

    def run(hub: Place) -> Path:
        return hub.adapt("qmqp/run", ("0 628", f"127.0.0.1 {hub.port}"), ("-u qmaild ", ""))

    def send() -> bytes:
        with wait_for(lambda: connected(place)) as client:
            client.reply()
            return client.deliver(recipient=b"x@example.org")

    def counts() -> list[int]:
        return [len(hub.home.messages()) for hub in (one, other)]

    start = place.adapt("hubs/front/run", listener(place), rules(place), ("-u qmaild ", ""))
    with other.running(run(other)):
        with one.running(run(one)), place.running(start):
            for hub_ in (one, other):
                wait_for(lambda hub_=hub_: connected(hub_)).close()  # type: ignore[misc]
            check = place.home.run(b"", "--check", QMAILQUEUE=None)
            assert check.status == 0 and check.out.count(b" (it takes a connection)") == 2
            for number in range(1, 40):
                assert send().startswith(b"250 ok ")
                assert sum(counts()) == number
                if all(counts()):  # they share
                    break
            assert all(counts())
            (message, *_) = one.home.messages()
            assert b"by hub.example.org with QMQP" in message.text
            assert b"by mx1.example.org with " in message.text
        log = place.log.read_text()
        assert re.search(rf' hub=127.0.0.1:{one.port} answer="ok \d+ qp \d+" ', log)
        with place.running(start):  # one hub has ended
            before = counts()
            for number in range(1, 5):
                assert send().startswith(b"250 ok ")
                assert counts() == [before[0], before[1] + number]
    with place.running(start):
        assert send() == b"451 connection to mail server rejected (#4.4.1)"
        with one.running(run(one)):
            wait_for(lambda: connected(one)).close()
            (place.home.path / "hub1/spool").rename(place.home.path / "gone")  # its oracle fails
            assert send() == b"451 qq write error or disk full (#4.3.0)"
            one.home.control("badrcptto", "x@example.org")
        with one.running(run(one)):
            wait_for(lambda: connected(one)).close()
            assert send().startswith(b"554 sorry, your envelope recipient is in my badrcptto list")


def connected(place: Place) -> Client | None:
    """A connection, once there is a listener."""
    try:
        return Client.connect(place.port)
    except ConnectionRefusedError:
        return None


def exchange(place: Place, data: bytes) -> bytes:
    """Send this and no more; all that is answered."""

    with wait_for(lambda: connected(place)) as client:
        client.send(data)
        client.end_input()
        return client.rest()


@pytest.mark.slow
def test_submission(place: Place) -> None:
    """Only in TLS, only for users, each as himself; and a header is made complete."""
    place.real("tcpserver")
    SERVER.save(place.home.control_dir / "servercert.pem")
    subprocess.run(
        [BIN / "qsmtpd-checkpassword", "--add", "joe@example.org"],
        input=b"secret\n",
        env=place.environ,
        check=True,
    )
    run = place.adapt(
        "submission/run", ("0 submission", f"127.0.0.1 {place.port}"), ("/bin/true", "true")
    )
    with place.running(run), place.client() as client:
        assert client.docmd("MAIL FROM:<joe@example.org>")[0] == 530
        client.starttls(context=client_context())
        client.ehlo()
        assert client.mail("joe@example.org")[0] == 530
        client.login("joe@example.org", "secret")
        client.mail("ann@example.org")
        assert client.rcpt("x@elsewhere.example")[0] == 553
        client.rset()
        client.sendmail("joe@example.org", ["x@elsewhere.example"], "Subject: x\r\n\r\nhi\r\n")
    (message,) = place.home.messages()
    assert b"\nDate: " in message.text
    assert re.search(rb"\nMessage-ID: <[0-9.]+@mx\.example\.org>\n", message.text)


@pytest.mark.interop
def test_the_log_of_daemontools(place: Place) -> None:
    place.real("multilog")
    run = place.adapt("daemontools/log/run")
    subprocess.run([run], input=b"event=x\n", cwd=run.parent, env=place.environ, check=True)
    text = (run.parent / "main/current").read_text()
    assert re.fullmatch(r"@[0-9a-f]{24} event=x\n", text)


@pytest.mark.interop
def test_runit(place: Place) -> None:
    place.real("tcpsvd")
    changes = ("0 25", f"127.0.0.1 {place.port}"), ("qmaild", USER)
    with place.running(place.adapt("runit/run", *changes)):
        place.mail("x@ok.example")
    place.arrived()


@pytest.mark.interop
def test_s6(place: Place) -> None:
    for name in ("tcpserver", "s6-envuidgid", "fdmove"):
        place.real(name)
    for name, text in S6_NETWORKING.items():
        if find(name) is None:
            place.program(name, text)
    changes = (
        ("/bin/execlineb", needs("execlineb")),
        ("qmaild", USER),
        ("0.0.0.0 25", f"127.0.0.1 {place.port}"),
    )
    with place.running(place.adapt("s6/run", *changes)):
        place.mail("x@ok.example")
    place.arrived()


# -- an MX for today ------------------------------------------------------------

KEY = RsaKey()
MX_ZONE = f"""
    mx.here               A    127.0.0.1
    1.0.0.127.in-addr.arpa  PTR  mx.here
    2.0.0.127.zen.spamhaus.org  A  127.0.0.2
    example.net           TXT  "v=spf1 ip4:192.0.2.0/24 -all"
    _dmarc.example.net    TXT  "v=DMARC1; p=reject"
    {KEY.record("s._domainkey.example.net")}
"""
FORGED = b"From: Joe <joe@example.net>\nTo: joe@example.org\nSubject: x\nDate: x\n\nhi\n"
SIGNED = sign(FORGED, KEY, "example.net")
CLAIMED = b"Authentication-Results: mx.example.org; dmarc=pass header.from=example.net\n"


@pytest.fixture
def mx(place: Place) -> Iterator[Place]:
    """The commands of the recipe have been run; 127.0.0.1 is a stranger, 127.0.0.9 is not."""
    for name in ("cdb", "tcprules"):
        place.real(name)
    # -H: it would ask DNSCACHEIP, too, but at port 53, and wait a minute.
    place.program("tcpserver", f'exec {needs("tcpserver")} -H "$@"')
    home = place.home.path
    recipe = (EXAMPLES / "README.md").read_text().partition("## An MX for today\n")[2]
    lines = re.findall(r"^    (.*\n)", recipe.partition("\n## ")[0], re.MULTILINE)
    script = "".join(line for line in lines if "--explain" not in line)
    places = {
        "/usr/local/share/doc/qsmtpd/examples": str(EXAMPLES),
        "/var/qmail": str(home),
        "/etc/tcp.smtp": str(home / "tcp.smtp"),
        "qsmtpd-server ": f"{BIN}/qsmtpd-server ",
        "tcprules ": f"sed -i s/^127./127.0.0.9/ {home}/tcp.smtp\ntcprules ",
    }
    for old, new in places.items():
        assert old in script
        script = script.replace(old, new)
    for name in ("me", "rcpthosts"):
        (place.home.control_dir / name).unlink()
    Certificate("mx.example.org", days=90).save(place.home.control_dir / "servercert.pem")
    with DnsServer(MX_ZONE) as dns:
        place.environ["DNSCACHEIP"] = dns.where
        done = subprocess.run(
            ["sh", "-ec", script], env=place.environ, capture_output=True, text=True, check=False
        )
        assert (done.stderr, done.returncode) == ("", 0), done
        assert not re.findall("^(?:wrong|warning): .*", done.stdout, re.MULTILINE)
        yield place


def tell(place: Place, source: str, sender: str, to: str, message: bytes) -> bytes:
    """What a client at this address is told, in TLS."""
    with place.client(source) as client:
        client.starttls(context=client_context())
        client.ehlo()
        for code, reply in (client.mail(sender), client.rcpt(to)):
            if code != 250:
                return b"%d %b" % (code, reply)
        return b"%d %b" % client.data(message.replace(b"\n", b"\r\n"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qsmtpd-server/run", "daemontools/run"])
def test_an_mx_for_today(mx: Place, name: str) -> None:
    rules = ("/etc/tcp.smtp.cdb", str(mx.home.path / "tcp.smtp.cdb"))
    user = [("-u qmaild ", "")] if name == "qsmtpd-server/run" else []
    with mx.running(mx.adapt(name, listener(mx), rules, *user)):
        joe, sender = "joe@example.org", "joe@example.net"
        assert tell(mx, "127.0.0.1", sender, joe, CLAIMED + SIGNED).startswith(b"250 ok ")
        assert tell(mx, "127.0.0.1", sender, joe, FORGED) == (
            b"550 message rejected by the DMARC policy of example.net (#5.7.26)"
        )
        assert tell(mx, "127.0.0.1", sender, "x@example.org", SIGNED).startswith(b"550 sorry, no ")
        assert tell(mx, "127.0.0.1", sender, "x@elsewhere.example", SIGNED).startswith(b"553 ")
        assert tell(mx, "127.0.0.2", sender, joe, SIGNED).startswith(b"553 sorry, 127.0.0.2 is ")
        assert tell(mx, "127.0.0.9", sender, "x@elsewhere.example", FORGED).startswith(b"250 ok ")
    first, relayed = mx.home.messages()
    assert first.text.endswith(SIGNED)
    (results,) = re.findall(
        rb"^Authentication-Results: ((?:.*\n)(?:[ \t].*\n)*)", first.text, re.MULTILINE
    )
    assert results.startswith(b"mx.example.org;")
    for said in (b"spf=fail", b"dkim=pass", b"dmarc=pass", b"iprev=pass"):
        assert said in results
    assert relayed.text.endswith(FORGED)


# -- systemd -----------------------------------------------------------------


class Unit(configparser.RawConfigParser):
    """A file of systemd's."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=True)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read_string(path.read_text())


@pytest.mark.interop
def test_systemd_knows_every_line(place: Place) -> None:
    paths = [place.adapt(f"systemd/{path.name}") for path in (EXAMPLES / "systemd").iterdir()]
    for path in paths:
        path.chmod(0o644)
    done = subprocess.run(
        [needs("systemd-analyze"), "--man=no", "verify", *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.interop
@pytest.mark.parametrize("name", ["qsmtpd@", "qsmtpd-server"])
def test_systemd(place: Place, name: str) -> None:
    """Its own stand-in accepts, or listens, and starts what the unit says."""
    path = place.adapt(f"systemd/{name}.service")
    service = Unit(path)["Service"]
    if "Environment" in service:
        variable, _, value = service["Environment"].partition("=")
        # The other systemd sets, and this one does not.
        place.environ |= {variable: value, "REMOTE_ADDR": "127.0.0.1"}
    command = [needs("systemd-socket-activate"), "-l", f"127.0.0.1:{place.port}"]
    for variable in place.environ:
        command += ["-E", variable]
    if Unit(EXAMPLES / "systemd" / f"{name.rstrip('@')}.socket")["Socket"].get("Accept") == "yes":
        assert (service["StandardInput"], service["StandardOutput"]) == ("socket", "socket")
        command += ["--accept", "--inetd"]
    with place.running(*command, *service["ExecStart"].split()):
        place.mail("x@ok.example")
    place.arrived()


def test_a_session_without_quit_is_no_failed_unit(home: Home) -> None:
    service = Unit(EXAMPLES / "systemd/qsmtpd@.service")["Service"]
    assert home.run(b"NOOP\r\n").status == int(service["SuccessExitStatus"]) == 1


# -- the picture --------------------------------------------------------------


def test_the_picture_has_the_machines_of_the_page() -> None:
    """It is in words, too; every address of the configurations is in it, and no other."""
    root = ElementTree.parse(EXAMPLES / "many/many.svg").getroot()
    texts = {element.tag.rpartition("}")[2]: "".join(element.itertext()) for element in root}
    assert texts["title"] and len(texts["desc"]) > 100
    shown = "".join(
        "".join(element.itertext()) + "\n" for element in root if "desc" not in element.tag
    )
    files = [EXAMPLES / "haproxy/haproxy.cfg", EXAMPLES / "many/redis.conf"]
    files += [path for name in ("hubs", "many") for path in (EXAMPLES / name).rglob("control/*")]
    used = {found for path in files for found in re.findall(r"192\.0\.2\.\d+", path.read_text())}
    assert set(re.findall(r"192\.0\.2\.\d+", shown)) == used
    assert used == set(re.findall(r"192\.0\.2\.\d+", texts["desc"]))


# -- the list ----------------------------------------------------------------


def test_every_example_is_in_the_list() -> None:
    """Or in that of a page of its own, below."""
    linked = set()
    for page in (EXAMPLES / name for name in ("README.md", "hubs/README.md", "many/README.md")):
        for link in re.findall(r"\]\(([^)#]*)[^)]*\)", page.read_text()):
            if "://" not in link and (page.parent / link).resolve().is_relative_to(EXAMPLES):
                linked.add(os.path.relpath(page.parent / link, EXAMPLES))
    linked.discard("README.md")
    files = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.is_file()}
    assert linked == files - {"README.md"}
    for name in files:
        script = (EXAMPLES / name).read_bytes().startswith(b"#!")
        assert script == os.access(EXAMPLES / name, os.X_OK), name
