"""The filter validrcptto: the cdb that mkvalidrcptto makes."""

from __future__ import annotations

import pytest
from cdbs import make_cdb
from filters import TAKEN, build, client, rcpt
from harness import Home, Variables

from qsmtpd.facts import ControlError
from qsmtpd.filters.validrcptto import keys

NO = b"550 sorry, no mailbox by that name (#5.7.1)"


@pytest.fixture
def boxes(home: Home) -> Home:
    """A cdb with each kind of key, and one in another place that knows eve alone."""
    data = {
        b"joe@ok.example": b"",
        b"ann@ok.example": b"some text",
        b"gone@x.example": b"-",
        b"spam-default@ok.example": b"-no",
        b"spam-not-default@ok.example": b"",
        b"list-default@ok.example": b"",
        b"@x.example": b"",
        b"@shut.example": b"-",
        b"ok@shut.example": b"",
        b"root": b"",
    }
    make_cdb(home.control_dir / "validrcptto.cdb", data)
    (home.path / "users").mkdir()
    make_cdb(home.path / "users/other.cdb", {b"eve@ok.example": b""})
    return home


@pytest.mark.parametrize(
    ("recipient", "taken"),
    [
        (b"joe@ok.example", True),
        (b"JOE@OK.Example", True),
        (b"ann@ok.example", True),
        (b"eve@ok.example", False),
        (b"joe-x@ok.example", False),  # no joe-default
        (b"list-x@ok.example", True),
        (b"list-x-y-z@ok.example", True),
        (b"list@ok.example", False),
        (b"list-@ok.example", True),
        (b"spam-x@ok.example", False),
        (b"spam-not-x@ok.example", True),  # the longer one comes first
        (b"any@x.example", True),
        (b"gone@x.example", False),
        (b"gone-x@x.example", True),
        (b"any@y.x.example", False),
        (b"any@shut.example", False),
        (b"ok@shut.example", True),
        (b"a@b@x.example", True),
        (b"root", True),
        (b"toor", False),
        (b"root-x", False),
        (b"Postmaster", True),
        (b"postmaster@ok.example", False),
        (b"", False),
        (b"@x.example", True),
        (b"-@ok.example", False),
    ],
)
def test_each_kind_of_key(boxes: Home, recipient: bytes, taken: bool) -> None:
    plugin = build("validrcptto", boxes.path)
    assert rcpt(plugin, recipient) == (TAKEN if taken else NO)
    assert plugin.immune == ("relay",)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (b"a@b", [b"a@b", b"@b"]),
        (b"a-b-c@d", [b"a-b-c@d", b"a-b-default@d", b"a-default@d", b"@d"]),
        (b"-@d", [b"-@d", b"-default@d", b"@d"]),
        (b"a--@d", [b"a--@d", b"a--default@d", b"a-default@d", b"@d"]),
        (b"a-b", [b"a-b"]),
        (b"", [b""]),
    ],
)
def test_the_keys_of_an_address(address: bytes, found: list[bytes]) -> None:
    assert list(keys(address)) == found


def test_the_variable(boxes: Home) -> None:
    for path in ("users/other.cdb", f"{boxes.path}/users/other.cdb"):
        plugin = build("validrcptto", boxes.path, VALIDRCPTTO_CDB=path)
        assert rcpt(plugin, b"eve@ok.example") == TAKEN
        assert rcpt(plugin, b"joe@ok.example") == NO
    off = build("validrcptto", boxes.path, VALIDRCPTTO_CDB="")
    assert rcpt(off, b"toor", client()) == TAKEN
    worded = build("validrcptto", boxes.path, REPLY_MAILBOX="ask us")
    assert rcpt(worded, b"toor") == b"550 sorry, no mailbox by that name ask us (#5.7.1)"
    for path in ("users/none.cdb", "users", "control/me"):
        with pytest.raises(ControlError):
            rcpt(build("validrcptto", boxes.path, VALIDRCPTTO_CDB=path), b"toor")
        checked = boxes.run(b"", "--check", VALIDRCPTTO_CDB=path)
        assert checked.status == 1 and f"wrong: VALIDRCPTTO_CDB: {path}: ".encode() in checked.out


@pytest.mark.parametrize(
    ("environ", "codes"),
    [
        ({}, [550, 250]),
        ({"VALIDRCPTTO_CDB": "users/other.cdb"}, [250, 550]),
        ({"VALIDRCPTTO_CDB": ""}, [250, 250]),
        ({"RELAYCLIENT": ""}, [250, 250]),
        ({"QSMTPD_PLUGINS": "-validrcptto"}, [250, 250]),
    ],
)
def test_a_session(boxes: Home, environ: Variables, codes: list[int]) -> None:
    lines = (b"MAIL FROM:<>", b"RCPT TO:<eve@ok.example>", b"RCPT TO:<joe@ok.example>", b"QUIT")
    assert boxes.run(b"\r\n".join((*lines, b"")), **environ).codes == [220, 250, *codes, 221]


@pytest.mark.sample(3)
@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 3000])
def test_a_cdb_that_is_none(boxes: Home, content: bytes) -> None:
    (boxes.control_dir / "validrcptto.cdb").write_bytes(content)
    run = boxes.run(b"MAIL FROM:<>\r\nRCPT TO:<joe@ok.example>\r\n")
    assert run.lines[-1] == b"421 unable to read controls (#4.3.0)"
    assert 250 not in run.codes[2:]
    checked = boxes.run(b"", "--check")
    assert checked.status == 1 and b"wrong: control/validrcptto.cdb: " in checked.out
