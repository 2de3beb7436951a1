"""What a process of qsmtpd-server shares with the master: its descriptors, and the board."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from cdbs import make_cdb
from harness import Home, wait_for
from listeners import Server, make_rules

from qsmtpd.server.board import Board
from qsmtpd.server.fork import Worker


def sockets_of(pid: int) -> set[str]:
    """The sockets that a process has open."""
    links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return {link for link in links if link.startswith("socket:")}


@pytest.mark.slow
@pytest.mark.parametrize("sessions", ["1", "100"])
def test_a_process_has_no_sockets_of_others(home: Home, sessions: str) -> None:
    """Its client's and the one to the master; also when rules and what they ask for are new."""
    cdb = home.path / "rules.cdb"
    make_rules(cdb, ":allow")
    make_cdb(home.control_dir / "morercpthosts.cdb", {b"more.example": b""})
    with Server(home, "-x", str(cdb), "--sessions", sessions) as server:
        held = [server.client() for _ in range(5)]
        for client in held:
            assert client.reply().startswith(b"220 ")
        busy = []
        for number in range(3):
            make_rules(cdb, f':allow,DATABYTES="{number + 1}"')
            busy.append(server.client())
            assert busy[-1].reply().startswith(b"220 ")
            busy[-1].send(b"EHLO x\r\n")
            assert b"250-SIZE %d" % (number + 1) in [*busy[-1].lines(), b""]
            assert busy[-1].ask(b"MAIL FROM:<a@b.example>") == b"250 ok"
            assert busy[-1].ask(b"RCPT TO:<x@more.example>") == b"250 ok"
        of = [sockets_of(pid) for pid in server.children()]
        assert len(of) == 3
        for mine in of:
            assert len(mine) == (1 if sessions == "1" else 2)
            assert not any(mine & other for other in of if other is not mine)
        for client in held:  # none of them is held open by anybody else
            assert client.ask(b"QUIT") == b"221 mx.example"
            assert client.rest() == b""
        for client in (*held, *busy):
            client.close()


def test_the_board() -> None:
    board = Board(3)
    places = [board.take() for _ in range(3)]
    assert len(set(places)) == 3 and all(places)
    with pytest.raises(OSError) as caught:
        board.take()
    assert caught.value.errno == errno.EAGAIN
    assert list(board.done()) == []
    assert not board.say(places[2], 100)
    board.awaited = True
    assert board.say(places[0], 0)
    assert sorted(board.done()) == sorted([(places[0], 0), (places[2], 100)])
    assert list(board.done()) == []
    board.say(places[1], 1)  # and it ends
    board.free(places[1])
    assert list(board.done()) == [] and board.take() == places[1]


def test_the_board_is_shared() -> None:
    """With a process that is forked later."""
    board = Board(40)
    place = board.take()
    pid = os.fork()
    if pid == 0:
        board.say(place, 111)
        os._exit(0)
    os.waitpid(pid, 0)
    assert list(board.done()) == [(place, 111)]


@pytest.mark.slow
def test_who_waits_is_served_as_soon_as_one_is_done(home: Home) -> None:
    """Though the master does not ask to be told of each end."""
    with Server(home, "-c", "1") as server, server.client() as first:
        assert first.reply().startswith(b"220 ")
        assert first.ask(b"NOOP") == b"250 ok"
        with server.client() as second:
            assert second.reply().startswith(b"220 ")
            second.send(b"NOOP\r\n")
            assert first.ask(b"QUIT") == b"221 mx.example"
            assert second.reply() == b"250 ok"
            assert second.ask(b"QUIT") == b"221 mx.example"
        wait_for(lambda: len(server.events("session")) == 2)
        assert len({event["pid"] for event in server.events("session")}) == 1


@pytest.mark.slow
def test_who_is_sent_away_costs_no_process(home: Home) -> None:
    """Only trouble does: each of these is followed by the next in the same process."""
    home.environ["MAXERRORS"] = "2"
    ends = {
        b"GET / HTTP/1.1\r\n": "not-smtp-http",
        b"\x16\x03\x01\x00": "not-smtp-tls",
        b"NONSENSE\r\n" * 4: "errors",
        b"BDAT nonsense\r\n": "bdat-syntax",
        b"MAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nbare\n.\r\n": "bare-lf",
        b"QUIT\r\n": "quit",
    }
    with Server(home, "-c", "1") as server:
        for number, said in enumerate(ends, 1):
            with server.client() as client:
                assert client.reply().startswith(b"220 ")
                client.send(said)
                client.rest()
            wait_for(lambda: len(server.events("session")) == number)  # noqa: B023
        events = server.events("session")
    assert [event["end"] for event in events] == list(ends.values())
    assert len({event["pid"] for event in events}) == 1


def test_a_worker_that_is_left_reads_what_it_was_sent() -> None:
    """Though it says something that nobody hears any more."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = Worker(1, ours, None, 0)
    with theirs:
        ours.send(b"a client")
        theirs.send(b"done")
        worker.leave()
        assert worker.control is None
        assert theirs.recv(100) == b"a client"
        assert theirs.recv(100) == b""
        with pytest.raises(BrokenPipeError):
            theirs.send(b"done")
        worker.close()
        worker.close()
