"""Files of qsmtpd-server: all as they were at the start or at the last HUP, in every process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from cdbs import make_cdb
from certificates import Certificate
from client import client_context
from harness import Home, wait_for
from listeners import Server, make_rules
from tls_home import SERVER

from qsmtpd.config import files
from qsmtpd.config.files import ControlFiles
from qsmtpd.facts import ControlError

pytestmark = pytest.mark.slow

BAD = b"553 sorry, your envelope recipient is in my badrcptto list (#5.7.1)"
GOOD = b"250 ok"
each_way = pytest.mark.parametrize("options", [("--sessions", "1"), ("-c", "1")], ids=str)


# -- reading ahead -------------------------------------------------------------


def test_all_is_read_ahead(home: Home) -> None:
    """Text, and what is wrong; but no cdb, no key and no password."""
    home.control("me", "one")
    home.control("unknown", "one")
    home.control("some.cdb", "one")
    home.control("serverkey.pem", "one")
    home.control("smtpusers", "one")
    home.control(".smtpusers.old", "one")
    os.mkfifo(home.control_dir / "fifo")  # nobody waits for a writer
    (home.control_dir / "folder").mkdir()
    (home.control_dir / "nowhere").symlink_to("nothing")
    (home.control_dir / os.fsdecode(b"\xff")).touch()
    found = ControlFiles(os.fsencode(home.path))
    found.read_ahead()
    for path in home.control_dir.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    later = ("some.cdb", "serverkey.pem", "smtpusers", ".smtpusers.old")
    for name in ("me", "unknown", *later, "fifo", "folder", "nowhere", "new"):
        home.control(name, "two")
    assert [found.read(name) for name in ("me", "unknown", "new")] == [b"one\n", b"one\n", None]
    assert {found.read(name) for name in later} == {b"two\n"}
    for name, reason in (
        ("fifo", "is no regular file"),
        ("folder", "is no regular file"),
        ("nowhere", "is a link that leads nowhere"),
    ):
        for _ in range(2):
            with pytest.raises(ControlError) as caught:
                found.read(name)
            assert (caught.value.name, caught.value.reason) == ("control/" + name, reason)


def test_so_much_and_no_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not read ahead is read when it is asked for."""
    monkeypatch.setattr(files, "AHEAD_LIMIT", 25)
    for name in ("aa", "bb", "cc", "dd"):
        home.control(name, name * 5)
    found = ControlFiles(os.fsencode(home.path))
    found.read_ahead()
    for name in ("aa", "bb", "cc", "dd"):
        home.control(name, "new")
    read = [found.read(name) for name in ("aa", "bb", "cc", "dd")]
    assert read == [b"aaaaaaaaaa\n", b"bbbbbbbbbb\n", b"cccccccccc\n", b"new\n"]


def test_nothing_to_read_ahead(tmp_path: Path) -> None:
    found = ControlFiles(os.fsencode(tmp_path))
    found.read_ahead()
    assert found.read("me") is None


# -- in the server -------------------------------------------------------------


@pytest.fixture
def ruled(home: Home) -> Home:
    """Only 127.0.0.2 has a rule, by which a file counts that nobody else asks for."""
    home.environ["QSMTPD_PLUGINS"] = "-badrcptto"
    home.control("badrcptto", "old@ok.example")
    make_rules(home.path / "rules.cdb", '127.0.0.2:allow,QSMTPD_PLUGINS=""', ":allow")
    return home


def recipients(server: Server, address: str, *names: bytes) -> list[bytes]:
    """What is said to a client with this address of these recipients."""
    commands = [b"RCPT TO:<%b@ok.example>" % name for name in names]
    return server.session(b"MAIL FROM:<>", *commands, b"QUIT", source=address)[2:-1]


@pytest.mark.slow
@each_way
def test_what_only_a_rule_asks_for(ruled: Home, options: tuple[str, ...]) -> None:
    """Also a rule that is new: the file is the one of the start in each process, until HUP."""
    cdb = ruled.path / "rules.cdb"
    with Server(ruled, *options, "-x", str(cdb)) as server:
        for address in ("127.0.0.2", "127.0.0.2", "127.0.0.1"):
            expected = [GOOD if address == "127.0.0.1" else BAD, GOOD]
            assert recipients(server, address, b"old", b"new") == expected
            ruled.control("badrcptto", "new@ok.example")
        make_rules(cdb, '127.0.0.3:allow,QSMTPD_PLUGINS=""', ":allow")
        for address in ("127.0.0.3", "127.0.0.3"):
            assert recipients(server, address, b"old", b"new") == [BAD, GOOD]
        server.reload()
        assert recipients(server, "127.0.0.3", b"old", b"new") == [GOOD, BAD]


@pytest.mark.slow
@each_way
def test_what_was_wrong_stays_wrong_until_hup(ruled: Home, options: tuple[str, ...]) -> None:
    """For the clients of the rule, and nobody else."""
    (ruled.control_dir / "badrcptto").unlink()
    os.mkfifo(ruled.control_dir / "badrcptto")
    with Server(ruled, *options, "-x", str(ruled.path / "rules.cdb")) as server:
        wait_for(lambda: server.events("control"))
        (event,) = server.events("control")
        assert (event["name"], event["reason"]) == ("control/badrcptto", "is no regular file")
        (ruled.control_dir / "badrcptto").unlink()
        ruled.control("badrcptto", "new@ok.example")
        for _ in range(2):
            with server.client("127.0.0.2") as client:
                assert client.reply() == b"421 unable to read controls (#4.3.0)"
        assert recipients(server, "127.0.0.1", b"new") == [GOOD]
        server.reload()
        assert recipients(server, "127.0.0.2", b"old", b"new") == [GOOD, BAD]


@pytest.mark.slow
def test_what_a_rule_asks_for_is_tried_on_hup(ruled: Home) -> None:
    """All or nothing: what would be wrong for these clients alone, too."""
    with Server(ruled, "-x", str(ruled.path / "rules.cdb")) as server:
        (ruled.control_dir / "badrcptto").unlink()
        os.mkfifo(ruled.control_dir / "badrcptto")
        server.reload()
        assert "not read anew: control/badrcptto: is no regular file" in server.log()
        assert recipients(server, "127.0.0.2", b"old") == [BAD]


@pytest.mark.slow
def test_a_plugin_of_a_rule(home: Home) -> None:
    """Its file is run at the start, not when the first such client comes."""
    source = "from qsmtpd.decision import *\ndef mail(client, envelope): return reject(b'old')\n"
    home.plugin("mine", source)
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.2:allow,QSMTPD_PLUGINS="mine"', ":allow")
    with Server(home, "--sessions", "1", "-x", str(cdb)) as server:
        home.plugin("mine", source.replace("old", "new"))
        for _ in range(2):
            said = server.session(b"MAIL FROM:<>", b"QUIT", source="127.0.0.2")
            assert said[1] == b"550 old (#5.7.1)"
        home.plugin("mine", "1 / 0")
        server.signal(signal.SIGHUP)
        wait_for(lambda: "not read anew: " in server.log())
        assert "ZeroDivisionError" in server.log()
        home.plugin("mine", source.replace("old", "new"))
        server.reload()
        said = server.session(b"MAIL FROM:<>", b"QUIT", source="127.0.0.2")
        assert said[1] == b"550 new (#5.7.1)"


@pytest.mark.slow
@each_way
def test_a_certificate_of_a_rule(home: Home, options: tuple[str, ...]) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    one, two = Certificate("one.example"), Certificate("two.example")
    path = home.path / "other.pem"
    one.save(path)
    cdb = make_rules(home.path / "rules.cdb", f'127.0.0.2:allow,SERVERCERT="{path}"', ":allow")

    def presented() -> bytes | None:
        with server.client("127.0.0.2") as client:
            client.reply()
            client.starttls(client_context())
            found = client.tls.getpeercert(binary_form=True)
            client.ask(b"QUIT")
        return found

    with Server(home, *options, "-x", str(cdb)) as server:
        two.save(path)
        first = presented()
        assert first == presented()
        server.reload()
        assert presented() != first
        path.write_text("nonsense")
        assert presented() != first
        server.signal(signal.SIGHUP)
        wait_for(lambda: "not read anew: " in server.log())
        assert presented() is not None


@pytest.mark.slow
@each_way
def test_a_certificate_that_is_wrong_at_the_start(home: Home, options: tuple[str, ...]) -> None:
    """No process looks at it again before HUP."""
    home.control("servercert.pem", "-----BEGIN CERTIFICATE-----", "x")
    with Server(home, *options) as server:
        SERVER.save(home.control_dir / "servercert.pem")
        for _ in range(2):
            with server.client() as client:
                client.reply()
                client.send(b"EHLO x\r\n")
                assert not [line for line in client.lines() if b"STARTTLS" in line]
                client.quit()
        server.reload()
        with server.client() as client:
            client.reply()
            client.starttls()


@pytest.mark.parametrize("options", [(), ("--sessions", "1")], ids=str)
def test_a_cdb_that_is_removed_counts_until_hup(home: Home, options: tuple[str, ...]) -> None:
    cdb = home.control_dir / "morercpthosts.cdb"
    make_cdb(cdb, {b"more.example": b""})
    ask = (b"MAIL FROM:<>", b"RCPT TO:<x@more.example>", b"QUIT")
    with Server(home, *options) as server:
        assert server.session(*ask)[2] == b"250 ok"
        cdb.unlink()
        assert server.session(*ask)[2] == b"250 ok"
        server.reload()
        assert server.session(*ask)[2].startswith(b"553 ")
