"""The readers of control files and of cdbs, and the lookup of settings."""

from __future__ import annotations

import os
import time
from pathlib import Path

import odd_files
import pytest
from cdbs import make_cdb
from harness import Home, Variables
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.config.cdb import Cdb
from qsmtpd.config.files import ControlFiles, open_cdb
from qsmtpd.config.settings import Settings
from qsmtpd.facts import ControlError


def settings(path: Path, **environ: bytes) -> Settings:
    control = path / "control"
    control.mkdir(exist_ok=True)
    controls = ControlFiles(os.fsencode(path))
    return Settings(controls, {name.encode(): value for name, value in environ.items()})


def cdb_of(path: Path) -> Cdb:
    """The cdb, open."""
    cdb = open_cdb(path.name, os.fsencode(path))
    assert cdb is not None
    return cdb


# -- values ----------------------------------------------------------------


def test_a_variable_overrides_its_file(tmp_path: Path) -> None:
    both = settings(tmp_path, DATABYTES=b"5")
    (tmp_path / "control/databytes").write_bytes(b"7 \t\nrest\n")
    assert both.number("databytes", "DATABYTES", 0) == 5
    assert both.number("databytes", None, 0) == 7
    assert both.number("nothing", None, 3) == 3
    assert both.number("databytes", None, 0, least=7, most=7) == 7


@pytest.mark.parametrize(
    "text", [b"", b"x", b"-1", b"+1", b" 1", b"1 2", b"1_0", b"\xd9\xa3", b"\r", b"1" * 21]
)
def test_what_is_no_number(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(ControlError):
        settings(tmp_path, N=text).number(None, "N", 0)
    unreadable = settings(tmp_path)
    (tmp_path / "control/n").write_bytes(text + b"\n")
    with pytest.raises(ControlError):
        unreadable.number("n", None, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"4", "is '4', less than 5"),
        (b"10", "is '10', more than 9"),
        (b"", "is '', which is not a number"),
        (b"x\xff\n", "is 'x\\xff\\x0a', which is not a number"),
        (b"1" * 50, f"is '{'1' * 40}...', which is not a number"),
    ],
)
def test_an_error_shows_the_value(tmp_path: Path, text: bytes, reason: str) -> None:
    with pytest.raises(ControlError) as caught:
        settings(tmp_path, N=text).number("n", "N", 7, least=5, most=9)
    assert (caught.value.name, caught.value.reason) == ("N", reason)


@given(st.integers(0, 10**20 - 1), st.sampled_from([b"", b" ", b"\t", b"\r", b" \t\r \r"]))
def test_blanks_at_an_end_are_no_part_of_a_value(number: int, blanks: bytes) -> None:
    text = b"%d" % number + blanks
    found = Settings(ControlFiles(b"/nonexistent"), {b"N": text, b"X": b"x" + blanks})
    assert found.number(None, "N", 1) == number
    assert found.line(None, "X") == found.variable("X") == b"x"
    assert found.choice(None, "X", ("a", "x")) == "x"
    assert Settings(ControlFiles(b"/nonexistent"), {b"F": b"0" + blanks}).flag("F") is False


def test_blanks_in_a_list(tmp_path: Path) -> None:
    found = settings(tmp_path)
    (tmp_path / "control/l").write_bytes(b"a \r\n\r\n \n#c\r\nb\t\n c\r\r\nd")
    assert found.lines("l") == [b"a", b"b", b" c", b"d"]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    found = settings(tmp_path)
    (tmp_path / "control/me").write_bytes(b"\xef\xbb\xbfmx.example\n")
    with pytest.raises(ControlError, match="byte-order mark"):
        found.line("me")


def test_a_word_that_is_none_of_them(tmp_path: Path) -> None:
    with pytest.raises(ControlError) as caught:
        settings(tmp_path, BARELF=b"c").choice(None, "BARELF", ("a", "b"))
    assert caught.value.reason == "is 'c', none of a, b"


# -- what is no file -------------------------------------------------------


@pytest.mark.parametrize("kind", odd_files.KINDS)
def test_what_cannot_be_read_is_not_absent(tmp_path: Path, kind: str) -> None:
    some = settings(tmp_path)
    odd_files.make(kind, tmp_path / "control/x")
    start = time.monotonic()
    with odd_files.bound_by_rights():
        assert some.files.has("x")  # so it switches on what its file would
        for ask in (some.lines, some.line, some.cdb, some.files.read):
            with pytest.raises(ControlError) as caught:
                ask("x")
            assert caught.value.name == "control/x"
        for look in (some.cdb_at, some.expect_cdb):
            with pytest.raises(ControlError):
                look("where", b"control/x")
        with pytest.raises(ControlError):
            some.number("x", None, 0)
    assert time.monotonic() - start < 10
    assert not some.files.has("y") and some.lines("y") is None and some.cdb("y") is None


def test_a_link_to_dev_null_is_an_empty_file(tmp_path: Path) -> None:
    some = settings(tmp_path)
    (tmp_path / "control/x").symlink_to("/dev/null")
    assert some.lines("x") == []
    assert some.number("x", None, 1, empty=7) == 7


def test_a_directory_that_cannot_be_listed(home: Home) -> None:
    """Its files can be read all the same, and what is not there is not there."""
    some = settings(home.path)
    home.control_dir.chmod(0o111)
    with odd_files.bound_by_rights():
        assert some.line("me") == b"mx.example"
        assert not some.files.has("badmailfrom")
        assert some.lines("badmailfrom") is None and some.cdb("morercpthosts.cdb") is None
    home.control_dir.chmod(0o755)


# -- cdb -------------------------------------------------------------------


def test_cdb(tmp_path: Path) -> None:
    path = tmp_path / "x.cdb"
    data = {b"key%d" % n: b"value%d" % n for n in range(500)} | {b"": b"empty", b"e": b""}
    make_cdb(path, data)
    cdb = cdb_of(path)
    for key, value in data.items():
        assert cdb.get(key) == value
    assert cdb.get(b"nothing") is None
    assert b"key1" in cdb
    assert list(cdb.items()) == list(data.items())
    make_cdb(path, {})
    assert list(cdb_of(path).items()) == []
    assert b"x" not in cdb_of(path)


DATA = {b"%d.example" % n: b"v" * (n % 7) for n in range(60)}


def whole(folder: Path, data: dict[bytes, bytes]) -> bytes:
    """The bytes of a cdb."""
    make_cdb(folder / "whole", data)
    return (folder / "whole").read_bytes()


def check_answers(cdb: Cdb, data: dict[bytes, bytes], others: dict[bytes, bytes]) -> None:
    """Every answer is what `data` says, or an error."""
    for key in {**data, **others}:
        try:
            found = cdb.get(key)
        except ControlError:
            continue
        assert found == data.get(key)


@given(st.integers(0, 5000), st.booleans())
def test_a_cdb_that_is_cut_off_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, size: int, later: bool
) -> None:
    """Before it is opened, or while it is open: what it does not hold is never called absent."""
    folder = tmp_path_factory.mktemp("cdb")
    content = whole(folder, DATA)
    path = folder / "x.cdb"
    path.write_bytes(content if later else content[:size])
    try:
        cdb = cdb_of(path)
    except ControlError:
        assert size < len(content)
        return
    os.truncate(path, min(size, len(content)))
    check_answers(cdb, DATA, {b"other": b""})
    path.write_bytes(content)  # the next one looks again
    assert {key: cdb.get(key) for key in DATA} == DATA


@pytest.mark.slow
@given(st.integers(0, 6000), st.dictionaries(st.sampled_from(sorted(DATA)), st.binary(max_size=9)))
def test_a_cdb_that_is_copied_over(
    tmp_path_factory: pytest.TempPathFactory, so_far: int, new: dict[bytes, bytes]
) -> None:
    """As cp does: the file is cut to nothing and written from its beginning, while it is open."""
    folder = tmp_path_factory.mktemp("cdb")
    path = folder / "x.cdb"
    path.write_bytes(whole(folder, DATA))
    cdb = cdb_of(path)
    assert cdb.get(b"1.example") == DATA[b"1.example"]
    content = whole(folder, new)
    with open(path, "wb", buffering=0) as stream:
        stream.write(content[:so_far])
        check_answers(cdb, new, DATA)
        stream.write(content[so_far:])
    assert {key: cdb.get(key) for key in DATA} == {key: new.get(key) for key in DATA}


PLACES = st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=8)), max_size=20)


@given(st.one_of(st.binary(max_size=4096), PLACES), st.sampled_from([*sorted(DATA), b"", b"x"]))
def test_a_damaged_cdb_is_an_error_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, damage: bytes | list[tuple[int, bytes]], key: bytes
) -> None:
    """Numbers of any size in it, too: no memory is taken for them, and no time."""
    folder = tmp_path_factory.mktemp("cdb")
    path = folder / "x.cdb"
    content = bytearray(whole(folder, DATA))
    if isinstance(damage, bytes):
        content = bytearray(damage)
    else:
        for place, text in damage:
            content[place : place + len(text)] = text
    path.write_bytes(content)
    for ask in (lambda cdb: cdb.get(key), lambda cdb: list(cdb.items())):
        try:
            ask(cdb_of(path))
        except ControlError:
            pass


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("a record of 4 GB", {"record": b"\1\0\0\0\xff\xff\xff\xff"}),
        ("a key of 4 GB", {"record": b"\xff\xff\xff\xff\1\0\0\0"}),
        ("zeros in place of a record", {"record": bytes(10)}),
        ("zeros in place of the header", {"header": bytes(2048)}),
        ("a table of 4 milliards of slots", {"slots": b"\xff\xff\xff\xff"}),
    ],
)
def test_damage_of_one_kind(tmp_path: Path, what: str, content: dict[str, bytes]) -> None:
    path = tmp_path / "x.cdb"
    made = bytearray(whole(tmp_path, {b"k": b"v"}))
    places = {"record": 2048, "header": 0, "slots": made.index(b"\2\0\0\0")}
    for name, text in content.items():
        made[places[name] : places[name] + len(text)] = text
    path.write_bytes(made)
    with pytest.raises(ControlError):
        cdb_of(path).get(b"k")
    with pytest.raises(ControlError):
        list(cdb_of(path).items())


def test_a_table_without_an_end_costs_little(tmp_path: Path) -> None:
    """Every slot is taken: 16 MB of them."""
    slots = 1 << 21
    head = (2048).to_bytes(4, "little") + slots.to_bytes(4, "little")
    path = tmp_path / "x.cdb"
    path.write_bytes(head * 256 + b"\1\1\1\1\0\x08\0\0" * slots)
    start = time.process_time()
    with pytest.raises(ControlError):
        cdb_of(path).get(b"k")
    assert time.process_time() - start < 5


def test_a_cdb_is_closed_when_it_is_used_no_more(tmp_path: Path) -> None:
    path = tmp_path / "x.cdb"
    make_cdb(path, DATA)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        cdb_of(path).get(b"k")
    path.write_bytes(b"")
    for _ in range(5):
        with pytest.raises(ControlError):
            cdb_of(path)
    assert len(os.listdir("/proc/self/fd")) == before


# -- a session -------------------------------------------------------------

ASK = b"MAIL FROM:<>\r\nRCPT TO:<x@more.example>\r\nQUIT\r\n"


def test_a_session_whose_morercpthosts_is_cut_off(home: Home) -> None:
    """It defers; the next one, when the file is whole again, does not."""
    path = home.control_dir / "morercpthosts.cdb"
    make_cdb(path, {b"more.example": b""})
    content = path.read_bytes()
    assert home.run(ASK).codes == [220, 250, 250, 221]
    talk = home.talk()
    talk.reply()
    talk.ask(b"MAIL FROM:<>")
    os.truncate(path, 2060)
    assert talk.ask(b"RCPT TO:<x@more.example>") == b"421 unable to read controls (#4.3.0)"
    run = talk.end(quit=False)
    assert run.event("control")["name"] == "control/morercpthosts.cdb"
    assert home.run(ASK).codes == [421]
    path.write_bytes(content)
    assert home.run(ASK).codes == [220, 250, 250, 221]


@pytest.mark.sample(7)
@pytest.mark.parametrize("kind", ["fifo", "dangling", "socket"])
@pytest.mark.parametrize(
    "name",
    ["badmailfrom", "badrcptto", "badhelo", "recipients", "requiredheaders", "databytes", "plugins",
     "mailfromrules.cdb", "morercpthosts.cdb", "immune", "me"],
)  # fmt: skip
def test_a_session_with_what_is_no_file(home: Home, name: str, kind: str) -> None:
    odd_files.make(kind, home.control_dir / name)
    environ: Variables = {"LOCALMFCHECK": "!"} if name.startswith("mailfrom") else {}
    run = home.run(b"QUIT\r\n", **environ)
    assert run.lines == [b"421 unable to read controls (#4.3.0)"]
    assert run.event("control")["name"] == f"control/{name}"
    checked = home.run(b"", "--check", **environ)
    assert checked.status == 1
    assert f"\nwrong: control/{name}: " in checked.out.decode()


@pytest.mark.slow
def test_a_plugin_that_is_no_file(home: Home) -> None:
    home.control("plugins", "nosy")
    (home.path / "plugins").mkdir()
    for kind in ("fifo", "dangling", "directory"):
        path = home.path / "plugins/nosy.py"
        odd_files.make(kind, path)
        assert home.run(b"QUIT\r\n").codes == [421]
        assert home.run(b"", "--check").status == 1
        if kind != "directory":
            path.unlink()


def test_users_that_are_no_file(home: Home) -> None:
    for kind in ("fifo", "dangling"):
        odd_files.make(kind, home.control_dir / "smtpusers")
        for option in (["--list"], ["--remove", "joe"]):
            run = home.run(b"", *option, program="qsmtpd-checkpassword")
            assert run.status == 111
            assert "control/smtpusers: is " in run.log
        assert (home.control_dir / "smtpusers").is_fifo() == (kind == "fifo")
        (home.control_dir / "smtpusers").unlink()
