"""The filter dovecotusers: Dovecot's userdb socket says who exists."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client import PATIENCE
from daemons import AUTH_HELLO, USERDB_HELLO, Line, Peer, userdb
from filters import TAKEN, build, rcpt
from harness import Home, Variables
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.facts import ControlError

pytestmark = pytest.mark.slow

NO = b"550 sorry, no mailbox here by that name (#5.1.1)"
UNABLE = b"451 unable to verify recipient (#4.3.0)"


@pytest.fixture
def dovecot(home: Home) -> Iterator[Peer]:
    """One that knows joe, joe@ok.example and ann-x@ok.example, and is asked by home."""
    known = userdb(
        b"joe", b"joe@ok.example", b"ann-x@ok.example", b"Eve@ok.example", b"b\xc3\xb6@x"
    )
    with Peer(known, home.path / "auth-userdb") as peer:
        home.control("dovecotusers", peer.address)
        yield peer


@pytest.mark.parametrize(
    ("recipient", "taken"),
    [
        (b"joe@ok.example", True),
        (b"joe@OK.example", True),
        (b"Joe@ok.example", False),  # whether case matters is for Dovecot
        (b"Eve@ok.example", True),
        (b"joe", True),
        (b"joe-list", True),
        (b"joe+list@ok.example", True),
        (b"joe-list-x+y@ok.example", True),
        (b"joe-@ok.example", True),
        (b"ann@ok.example", False),
        (b"ann-x@ok.example", True),
        (b"ann-x-y@ok.example", False),
        (b"-joe@ok.example", False),
        (b"joe@other.example", False),
        (b"joe@ok.example@ok.example", False),
        (b"b\xc3\xb6@x", True),
        (b"Postmaster", True),
        (b"postmaster@ok.example", False),
        (b"", False),
        (b"@ok.example", False),
        (b"joe\tservice=x@ok.example", False),
        (b"joe\n@ok.example", False),
        (b"joe\0@ok.example", False),
    ],
)
def test_who_exists(dovecot: Peer, home: Home, recipient: bytes, taken: bool) -> None:
    assert rcpt(build("dovecotusers", home.path), recipient) == (TAKEN if taken else NO)


@given(st.binary(max_size=40), st.booleans())
def test_what_is_asked(recipient: bytes, utf8: bool) -> None:
    """The whole comes first; nothing that was not in it, and not many."""
    plugin = build("dovecotusers", Path("/nonexistent"), DOVECOTUSERS="/x", DOVECOTDELIMITER="+-")
    names = list(plugin._filter.names(recipient, False))
    assert names[0].lower() == recipient.lower()
    assert len(names) == len(set(names)) <= 2
    for name in names:
        assert set(name) <= set(recipient.lower()) | set(recipient)


@pytest.mark.parametrize(
    ("delimiters", "taken"), [("+", 1), ("", 0), ("-", 2), ("_=", 0), ("-+", 3), (None, 3)]
)
def test_delimiters(dovecot: Peer, home: Home, delimiters: str | None, taken: int) -> None:
    environ: Variables = {} if delimiters is None else {"DOVECOTDELIMITER": delimiters}
    plugin = build("dovecotusers", home.path, **environ)
    said = [rcpt(plugin, name) for name in (b"joe-x@ok.example", b"joe+x@ok.example", b"joe-")]
    assert said.count(TAKEN) == taken


@pytest.mark.parametrize("delimiters", ["a", "+1", "@", "\x01"])
def test_what_is_no_delimiter(home: Home, delimiters: str) -> None:
    with pytest.raises(ControlError, match="DOVECOTDELIMITER"):
        build("dovecotusers", home.path, DOVECOTUSERS="/x", DOVECOTDELIMITER=delimiters)


def test_settings(dovecot: Peer, home: Home) -> None:
    assert rcpt(build("dovecotusers", home.path, DOVECOTUSERS=""), b"nobody") == TAKEN
    relative = build("dovecotusers", home.path, DOVECOTUSERS="/nowhere")
    assert rcpt(relative, b"joe@ok.example") == UNABLE
    worded = build("dovecotusers", home.path, REPLY_MAILBOX="ask us")
    assert rcpt(worded, b"x") == NO.replace(b" (#", b" ask us (#")
    home.control("dovecotusers", "")
    with pytest.raises(ControlError, match="names no socket"):
        build("dovecotusers", home.path)


def test_one_connection_and_one_question_each(dovecot: Peer, home: Home) -> None:
    asked: list[bytes] = []
    plain = dovecot.script

    def script(line: Line) -> None:
        hear = line.hear

        def noted() -> bytes:
            asked.append(hear())
            return asked[-1]

        line.hear = noted  # type: ignore[method-assign]
        plain(line)

    dovecot.script = script
    plugin = build("dovecotusers", home.path)
    for _ in range(3):
        assert rcpt(plugin, b"joe@ok.example") == TAKEN
        assert rcpt(plugin, b"nobody@ok.example") == NO
    assert dovecot.connections == 1
    assert [line.split(b"\t")[2] for line in asked[1:]] == [b"joe@ok.example", b"nobody@ok.example"]
    assert rcpt(build("dovecotusers", home.path), b"joe@ok.example") == TAKEN
    assert dovecot.connections == 2  # another session


# -- no answer ---------------------------------------------------------------

#: What Dovecot says after its first lines and our two, and `result=` of it.
SAYS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "closed the connection"),
    "half": (b"USER\t1\tjoe", "closed the connection"),
    "a problem": (b"FAIL\t1\treason=no database\n", "has a problem: no database"),
    "nonsense": (b"\xff\0\n", "talks nonsense"),
    "another answer": (b"USER\t2\tjoe\n", "talks nonsense"),
    "10 MB": (b"x" * 10_000_000, "answers too long"),
}


@pytest.mark.parametrize("which", SAYS)
def test_no_answer(home: Home, which: str) -> None:
    text, result = SAYS[which]

    def script(line: Line) -> None:
        line.say(USERDB_HELLO)
        line.hear(), line.hear()
        line.say(text)

    with Peer(script, home.path / "auth-userdb") as peer:
        home.environ["DOVECOTUSERS"] = peer.address
        done = home.run(
            b"MAIL FROM:<>\r\nRCPT TO:<joe@ok.example>\r\nRCPT TO:<ann@ok.example>\r\nQUIT\r\n"
        )
    assert done.lines[2:4] == [UNABLE, UNABLE]
    assert peer.connections == 2  # after each, the next one is a fresh start
    plugin, refused = done.events("plugin")[0], done.events("refused")[0]
    assert plugin["plugin"] == refused["by"] == "dovecotusers"
    assert plugin["to"] == "joe@ok.example" and plugin["socket"] == peer.address
    assert plugin["result"] in (result, "Connection reset by peer")


def dead(path: Path) -> None:
    pass


KINDS: dict[str, Callable[[Path], object]] = {
    "missing": dead,
    "file": lambda path: path.write_bytes(b"x"),
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "dangling": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_socket(home: Home, kind: str) -> None:
    KINDS[kind](home.path / "auth-userdb")
    home.control("dovecotusers", "auth-userdb")  # of QMAILHOME
    done = home.run(b"MAIL FROM:<>\r\nRCPT TO:<joe@ok.example>\r\nQUIT\r\n")
    assert done.codes == [220, 250, 451, 221]
    check = home.run(b"", "--check")
    assert check.status == 1 and b"wrong: control/dovecotusers: auth-userdb " in check.out


def test_check(dovecot: Peer, home: Home) -> None:
    check = home.run(b"", "--check")
    answers = f"ok: Dovecot's userdb socket = {dovecot.address} (it answers)"
    assert check.status == 0 and answers.encode() in check.out
    assert b"0666" not in check.out
    (home.path / "auth-userdb").chmod(0o666)  # Dovecot's default, by which it has this meaning
    check = home.run(b"", "--check")
    mode = b"has mode 0666: Dovecot says only who exists with the user ID of whoever asks"
    assert check.status == 0 and b"warning: control/dovecotusers: " + mode in check.out
    (home.path / "auth-userdb").chmod(0o600)

    def another(line: Line) -> None:
        line.say(AUTH_HELLO)
        line.wait_for_end()

    dovecot.script = another
    check = home.run(b"", "--check")
    what = f"{dovecot.address} gives no answer: is no userdb socket"
    assert check.status == 1 and f"wrong: control/dovecotusers: {what}\n".encode() in check.out

    def broken(line: Line) -> None:
        line.say(USERDB_HELLO)
        line.hear()
        number = line.hear().split(b"\t")[1]
        line.say(b"FAIL\t%b\treason=no database\n" % number)
        line.wait_for_end()

    dovecot.script = userdb(b"no-such-user-of-qsmtpd@check.invalid")
    check = home.run(b"", "--check")
    assert check.status == 0 and b"warning: control/dovecotusers: Dovecot says yes" in check.out
    dovecot.script = broken  # what it says at first is no answer about a user
    check = home.run(b"", "--check")
    assert check.status == 1 and b"gives no answer: has a problem: no database\n" in check.out
    assert home.run(b"", "--check", DOVECOTUSERS="").status == 0
    idle = home.run(b"", "--check", QSMTPD_PLUGINS="-dovecotusers", DOVECOTDELIMITER="+")
    assert b"wrong: DOVECOTDELIMITER: does nothing without its filter dovecotusers" in idle.out
    other = Peer(userdb(), home.path / "other")
    with other:
        home.control("plugins", f"dovecotusers dovecotusers={other.address}", "builtins")
        check = home.run(b"", "--check")
    assert check.status == 0 and other.address.encode() in check.out


@pytest.mark.slow
def test_slow(home: Home) -> None:
    """One time limit is enough, however many recipients there are."""
    with Peer(Line.wait_for_end, home.path / "auth-userdb") as peer:
        home.environ.update(DOVECOTUSERS=peer.address, DOVECOTUSERSTIMEOUT="1")
        many = b"".join(b"RCPT TO:<x%d@ok.example>\r\n" % number for number in range(50))
        done = home.run(b"MAIL FROM:<>\r\n" + many + b"QUIT\r\n", MAXERRORS="99")
    assert done.lines[2:52] == [UNABLE] * 50
    assert peer.connections == 1
    assert 1 <= float(done.event("session")["seconds"]) < 20
    assert done.events("plugin")[0]["result"] == "timeout"


def test_term_while_dovecot_thinks(home: Home) -> None:
    asked = threading.Event()

    def script(line: Line) -> None:
        line.say(USERDB_HELLO)
        line.hear()
        line.hear()
        asked.set()
        line.wait_for_end()

    with Peer(script, home.path / "auth-userdb") as peer:
        talk = home.talk(DOVECOTUSERS=peer.address)
        talk.reply()
        talk.send(b"MAIL FROM:<>\r\nRCPT TO:<joe@ok.example>\r\n")
        assert asked.wait(PATIENCE)
        talk.process.send_signal(signal.SIGTERM)
        assert talk.ended().lines[-1] == b"421 shutting down, try again later (#4.3.2)"


@pytest.mark.parametrize("alive", [True, False])
def test_restarted_in_between(dovecot: Peer, home: Home, alive: bool) -> None:
    with home.talk() as talk:
        talk.reply()
        assert talk.ask(b"MAIL FROM:<>", b"RCPT TO:<joe@ok.example>") == b"250 ok"
        if alive:
            dovecot.restart()
        else:
            dovecot.stop()
        assert talk.ask(b"RCPT TO:<joe@ok.example>") == b"250 ok"  # it is known by now
        reply = talk.ask(b"RCPT TO:<eve@ok.example>")
        assert reply == (NO if alive else UNABLE)
        assert dovecot.connections == 1 + alive


@pytest.mark.parametrize("times", [1, 2])
def test_ends_while_it_is_asked(home: Home, times: int) -> None:
    """On a connection that has served before, a question is asked once more, on a new one."""
    left = [times]

    def script(line: Line) -> None:
        line.say(USERDB_HELLO)
        line.hear()
        if peer.connections == 1:
            assert line.hear()
            line.say(b"NOTFOUND\t1\n")
        while text := line.hear():
            if left[0]:
                left[0] -= 1
                return
            line.say(b"NOTFOUND\t%b\n" % text.split(b"\t")[1])

    with Peer(script, home.path / "auth-userdb") as peer:
        plugin = build("dovecotusers", home.path, DOVECOTUSERS=peer.address)
        assert rcpt(plugin, b"one") == NO
        assert rcpt(plugin, b"two") == (NO if times == 1 else UNABLE)
        assert rcpt(plugin, b"two") == NO
        assert peer.connections == 1 + times


# -- a session ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "codes"),
    [
        ({}, [250, 550, 553]),
        ({"DOVECOTUSERS": ""}, [250, 250, 553]),
        ({"RELAYCLIENT": ""}, [250, 250, 250]),
        ({"QSMTPD_PLUGINS": "-dovecotusers"}, [250, 250, 553]),
    ],
)
def test_a_session(dovecot: Peer, home: Home, environ: Variables, codes: list[int]) -> None:
    names = (b"joe@ok.example", b"eve@ok.example", b"joe@no.example")
    lines = (b"MAIL FROM:<>", *(b"RCPT TO:<%b>" % name for name in names), b"QUIT", b"")
    assert home.run(b"\r\n".join(lines), **environ).codes == [220, 250, *codes, 221]
    assert dovecot.connections == (environ == {})


def test_only_for_our_domains(dovecot: Peer, home: Home) -> None:
    home.run(b"MAIL FROM:<>\r\nRCPT TO:<joe@no.example>\r\nQUIT\r\n")
    assert dovecot.connections == 0


def test_smtputf8(home: Home) -> None:
    """Each form of the domain is asked about."""
    home.control("rcpthosts", "xn--bcher-kva.example")
    with Peer(userdb("jö@bücher.example".encode()), home.path / "auth-userdb") as peer:
        home.environ["DOVECOTUSERS"] = peer.address
        to = "RCPT TO:<jö-x@xn--bcher-kva.example>\r\n".encode()
        done = home.run(b"EHLO x\r\nMAIL FROM:<> SMTPUTF8\r\n" + to + b"QUIT\r\n")
    assert done.codes == [220, 250, 250, 250, 221]


def test_sessions_share_nothing(dovecot: Peer, home: Home) -> None:
    """Of the same plan, as in qsmtpd-server: what one has asked is not in the other."""
    first: Any = build("dovecotusers", home.path)
    second = first._filter.for_session()
    assert rcpt(first, b"joe@ok.example") == rcpt(second, b"joe@ok.example") == TAKEN
    assert dovecot.connections == 2
    first.disconnect(None)
    assert rcpt(second, b"joe@ok.example") == TAKEN and first._users is None
