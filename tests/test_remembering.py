"""Filters that remember, in whole sessions: under tcpserver and qsmtpd-server, with a clock."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import BIN, ROOT, Home, wait_for
from listeners import Listener, Server, clocked, tcpserver

from qsmtpd.diagnose import store

BEGIN = (b"EHLO b.example", b"MAIL FROM:<list-1@b.example>", b"RCPT TO:<x@ok.example>")
MESSAGE = (*BEGIN, b"DATA", b"Subject: x\r\n\r\nhi\r\n.", b"QUIT")
REFUSED = (*BEGIN, b"QUIT")
BOUNCE = (b"EHLO b.example", b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>")


class Clock:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.move(0)

    def move(self, seconds: int) -> None:
        """To so many seconds from now."""
        new = self._path.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._path)


class Place:
    """A home with a store, and a clock."""

    def __init__(self, home: Home, warm: bool) -> None:
        self.home = home
        self._warm = warm
        self.clock = Clock(home.path / "clock")
        self.store = home.path / "state" / "store"
        self.store.parent.mkdir(mode=0o700)
        home.environ |= {"GREYLIST": "", "QSMTPD_STORE": str(self.store)}

    @contextmanager
    def listening(self, *options: str) -> Iterator[Listener]:
        if self._warm:
            run = clocked(self.home.path / "clock", "qsmtpd.server.main")
            with Server(self.home, "--sessions", "100", *options, run=run) as server:
                yield server
        else:
            run = clocked(self.home.path / "clock", "qsmtpd.main")
            with tcpserver(self.home, ":allow", run=run) as server:
                yield server

    def rows(self) -> int:
        with sqlite3.connect(self.store) as connection:
            (number,) = connection.execute("SELECT count(*) FROM greylist").fetchone()
        connection.close()
        return int(number)


@pytest.fixture(params=[False, True], ids=["tcpserver", "qsmtpd-server"])
def place(home: Home, request: pytest.FixtureRequest) -> Place:
    return Place(home, request.param)


def left(reply: bytes) -> int:
    """The seconds that somebody is put off."""
    words = reply.split()
    assert reply.startswith(b"451 greylisted, try again in ") and reply.endswith(b" (#4.7.1)")
    return int(words[5])


@pytest.mark.sample(2)
def test_greylisting(place: Place) -> None:
    home = place.home
    with place.listening() as server:
        assert 299 <= left(server.session(*REFUSED)[3]) <= 300
        assert left(server.session(*REFUSED, source="127.0.1.1")[3]) > 290, "another network"
        place.clock.move(200)
        assert 60 <= left(server.session(*REFUSED)[3]) <= 100
        place.clock.move(301)
        assert server.session(*MESSAGE)[-2].startswith(b"250 ok ")
        place.clock.move(301 + 30 * 86400)
        assert server.session(*MESSAGE, source="127.0.0.9")[-2].startswith(b"250 ok ")
        refused = server.events("refused")
        waited = [line["waited"] for line in server.events("plugin")]
    assert len(home.messages()) == 2
    assert {line["by"] for line in refused} == {"greylist"} and len(refused) == 3
    assert len(waited) == 1 and 301 <= int(waited[0]) <= 310
    assert {path.stat().st_mode & 0o777 for path in place.store.parent.iterdir()} == {0o600}


@pytest.mark.slow
def test_a_callback_and_a_bounce(place: Place) -> None:
    with place.listening() as server:
        callback = server.session(*BOUNCE, b"RSET", b"QUIT")
        assert callback[3] == b"250 ok", "a callback is told"
        replies = server.session(*BOUNCE, b"DATA", b"QUIT")
        assert replies[3] == b"250 ok" and left(replies[4]) > 290
        replies = server.session(*BOUNCE, b"BDAT 1 LAST\r\nx", b"QUIT")
        assert 200 < left(replies[4]) <= 300
        place.clock.move(301)
        replies = server.session(*BOUNCE, b"DATA", b"Subject: x\r\n\r\n.", b"QUIT")
        assert replies[-2].startswith(b"250 ok ")
    assert place.home.messages()[0].sender == b""


@pytest.mark.slow
def test_one_process_serves_many_clients_with_its_store_open(home: Home) -> None:
    place = Place(home, warm=True)
    home.environ["GREYLISTIPV4"] = "32"
    home.plugin("mine", "from qsmtpd.decision import DECLINED\ndef mail(*facts): return DECLINED\n")
    home.control("plugins", "mine", "builtins")
    with place.listening("-c", "1", "--spare", "1") as server:
        assert isinstance(server, Server)
        before: list[int] = []
        for number in range(1, 6):
            assert left(server.session(*REFUSED, source=f"127.0.0.{number}")[3]) > 290
            wait_for(lambda: server.busy() == 0)
            before = before or server.children()
            assert server.children() == before, "the file that stays open is no leftover"
        assert place.rows() == 5
        for path in place.store.parent.glob("store*"):
            path.unlink()
        assert left(server.session(*REFUSED)[3]) > 298, "it was deleted: a new one"
        assert place.rows() == 1
        assert server.children() == before
        server.reload()
        place.clock.move(301)
        assert server.session(*MESSAGE)[-2].startswith(b"250 ok ")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "garbage", "fifo", "link", "directory", "locked"])
def test_whatever_the_store_is_mail_flows(place: Place, how: str) -> None:
    store, folder = place.store, place.store.parent
    holder = None
    place.home.environ["TMPDIR"] = str(place.home.path / "tmp")
    place.home.environ["STORETIMEOUT"] = "1" if how == "locked" else "60"
    (place.home.path / "tmp").mkdir()
    if how == "missing":
        folder.rmdir()
    elif how == "garbage":
        store.write_bytes(b"x" * 9999)
    elif how == "fifo":
        os.mkfifo(store)
    elif how == "link":
        store.symlink_to("nowhere")
    elif how == "directory":
        store.mkdir()
    elif how == "locked":
        with place.listening() as server:
            server.session(*REFUSED, source="127.0.9.1")
        holder = sqlite3.connect(store, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
    with place.listening() as server:
        for _ in range(3):
            assert server.session(*MESSAGE)[-2].startswith(b"250 ok ")
        (line,) = server.events("plugin")
        assert server.events("trouble") == []
    words = {"missing": "missing", "garbage": "corrupt", "link": "missing", "locked": "busy"}
    assert (line["store"], line["then"]) == (words.get(how, "foreign"), "pass")
    assert len(place.home.messages()) == 3
    if holder is not None:
        holder.close()


@pytest.mark.slow
def test_what_check_and_explain_say(home: Home) -> None:
    place = Place(home, warm=False)
    arguments = ["--explain", "ip=192.0.2.1", "from=a@b.example", "to=x@ok.example"]
    said = home.run(b"", *arguments).out
    assert b"451 greylisted, try again in 300 seconds (#4.7.1)" in said, said
    assert list(place.store.parent.iterdir()) == []
    said = home.run(b"", "--check").out
    assert b"(it is made by the first session)" in said, said
    assert not any(line.startswith(b"wrong: control/store") for line in said.splitlines()), said
    session = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n"
    home.run(session)
    assert b"(it can be read)" in home.run(b"", "--check").out
    place.store.chmod(0o644)
    said = home.run(b"", "--check").out
    assert b"has mode 0644: 0600 is enough" in said
    if os.geteuid() == 0:
        os.chown(place.store, 65534, -1)
        assert b"belongs to another user than its folder" in home.run(b"", "--check").out
    place.store.unlink()
    place.store.mkdir()
    for place_of_it, why in (
        (str(place.store), b"is no regular file"),
        ("/no/such/folder/store", b"/no/such/folder: No such file or directory"),
    ):
        run = home.run(b"", "--check", QSMTPD_STORE=place_of_it)
        wrong = [line for line in run.out.splitlines() if line.startswith(b"wrong: QSMTPD_STORE")]
        assert run.status == 1 and why in b"".join(wrong), run.out


def test_check_knows_the_file_systems_of_other_machines(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mountinfo of a folder with a blank in its name, on NFS, and of one in it that is not."""
    folder = home.path / "over there"
    local = folder / "local"
    local.mkdir(parents=True)
    table = home.path / "mounts"
    point = str(folder).replace(" ", "\\040")
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        f"31 22 0:40 / {point} rw - nfs4 srv:/x rw,addr=192.0.2.1\n"
        f"32 31 0:41 / {point}/local rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(store, "MOUNTS", str(table))
    for place, said in ((folder, "nfs4"), (local, ""), (home.path, ""), (folder / "more", "nfs4")):
        assert store._remote(os.fsencode(place)) == said, place
    monkeypatch.setattr(store, "MOUNTS", str(home.path / "nowhere"))
    assert store._remote(os.fsencode(folder)) == ""


def test_check_says_where_the_disk_is_full(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    report = SimpleNamespace(
        wrong=lambda where, what: found.append("wrong"),
        warn=lambda where, what: found.append("warning"),
    )

    def said(kilobytes: int, files: int, is_there: bool = False) -> list[str]:
        room = SimpleNamespace(f_bavail=kilobytes, f_frsize=1024, f_files=99, f_favail=files)
        monkeypatch.setattr(os, "statvfs", lambda path: room)
        found.clear()
        store._check_room(report, "store", os.fsencode(home.path), is_there)  # type: ignore[arg-type]
        return [*found]

    assert said(0, 9) == said(127, 9) == ["wrong"]
    assert said(9999, 0) == ["wrong"] and said(9999, 0, is_there=True) == []
    assert said(200, 9) == ["warning"] and said(9999, 9) == []


def test_off_it_costs_nothing(home: Home) -> None:
    """Not a module: as a session without it; see test_architecture for those that there are."""
    wrapper = (
        "import sys\nsys.path.insert(0, sys.argv.pop(1))\nimport posix\nexit = posix._exit\n"
        "def leave(status):\n"
        "    found = [n for n in sys.modules if 'sqlite' in n or 'store' in n or 'grey' in n]\n"
        "    posix.write(2, ' '.join(found).encode() + b'\\n')\n"
        "    exit(status)\n"
        "posix._exit = leave\nfrom qsmtpd import main\nmain.main([])"
    )

    def loaded(**environ: str) -> str:
        done = subprocess.run(
            [BIN / "python3", "-IS", "-c", wrapper, str(ROOT)],
            input=b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n",
            capture_output=True,
            env={**home.environ, **environ},
            check=True,
        )
        return done.stderr.decode().splitlines()[-1]

    assert loaded() == ""
    assert "_sqlite3" in loaded(GREYLIST="", QSMTPD_STORE="store").split()


@pytest.mark.slow
def test_check_of_what_stands_in_for_a_server(home: Home) -> None:
    """Without that file each process counts by itself while the server is away."""
    home.control("sendlimits", "client:* messages=2/hour")
    home.environ |= {"QSMTPD_STORE": "redis://127.0.0.1:1", "STORELOCAL": "/no/such/folder/store"}
    run = home.run(b"", "--check")
    said = run.out.decode().splitlines()
    assert "warning: STORELOCAL: /no/such/folder: No such file or directory" in said, said
    assert any(line.startswith("wrong: QSMTPD_STORE: ") for line in said), said
