"""What the manual pages show is true: their examples are run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from harness import ROOT, Home, needs

from qsmtpd.policy.spec import BUILT_IN


def examples(page: str) -> list[str]:
    """The literal blocks of a manual page, as mandoc prints them."""
    command = [needs("mandoc"), "-T", "utf8", "-O", "width=100", str(ROOT / "man" / page)]
    printed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    plain = re.sub(".\b", "", printed)
    blocks = re.split(r"\n(?! {11}|\n|$)[^\n]*", "\n" + plain)
    return [textwrap.dedent(block).strip("\n") + "\n" for block in blocks if block.strip()]


def example(page: str, words: str) -> str:
    """The one block with these words in it."""
    (found,) = [block for block in examples(page) if words in block]
    return found


def test_the_example_plugin(home: Home) -> None:
    home.plugin("nosy", example("qsmtpd-plugins.7", "class Plugin"))
    home.control("plugins", "nosy nosylimit=1")
    wrong, right = b"RCPT TO:<x@no.example>\r\n", b"RCPT TO:<x@ok.example>\r\n"
    session = b"MAIL FROM:<a@b>\r\n" + right + wrong + right + b"RSET\r\nQUIT\r\n"
    run = home.run(session)
    assert run.lines[4] == b"550 you have guessed enough (#5.7.1)"
    assert run.codes == [220, 250, 250, 553, 550, 250, 221]
    assert run.event("plugin")["wrong"] == "1"
    assert home.run(session, NOSYLIMIT="2").codes == [220, 250, 250, 553, 250, 250, 221]
    assert home.run(session, RELAYCLIENT="").codes == [220, 250, 250, 250, 250, 250, 221]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("subject", "code"),
    [
        (b"Casino", 554),
        (b"=?utf-8?q?c=61s?=\n =?iso-8859-1?B?aW5v?=", 554),
        (b"\xc3\xa9 casino \xff", 554),
        (b"caf\xc3\xa9 =?utf-8?q?CASINO?=", 554),
        (b"ca\n sino", 250),
        (b"=?utf-8?b?a?= casino", 554),  # not to be decoded, nor are these:
        (b"=?nonsense?q?x?= casino", 554),
        (b"=?a\0b?q?x?= casino", 554),
        (b"=?rot13?q?pnfvab?=", 250),
        (b"", 250),
    ],
)
def test_the_example_that_decodes(home: Home, subject: bytes, code: int) -> None:
    home.plugin("games", example("qsmtpd-plugins.7", "decode_header"))
    home.control("plugins", "games")
    message = b"Subject: " + subject.replace(b"\n", b"\r\n") + b"\r\n\r\nhi\r\n.\r\n"
    envelope = b"MAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n"
    run = home.run(envelope + message + b"QUIT\r\n")
    assert run.codes == [220, 250, 250, 354, code, 221]
    assert run.events("trouble") == []


def test_the_example_of_the_test_kit(home: Home, tmp_path: Path) -> None:
    plugin = tmp_path / "nosy.py"
    plugin.write_text(example("qsmtpd-plugins.7", "class Plugin"))
    test = example("qsmtpd-plugins.7", "def test_nosy").replace(
        "/var/qmail/plugins/nosy.py", str(plugin)
    )
    script = tmp_path / "test_nosy.py"
    script.write_text(test + "\ntest_nosy()\n")
    environ = {"PYTHONPATH": str(ROOT), "PATH": home.environ["PATH"]}
    subprocess.run([sys.executable, script], check=True, env=environ, cwd=tmp_path)


def test_the_example_of_control_plugins(home: Home) -> None:
    lines = example("qsmtpd-plugins.7", "nosy:strict").replace(
        "/opt/mail/", f"{home.path}/plugins/"
    )
    home.control("plugins", *lines.splitlines())
    home.plugin("nosy", example("qsmtpd-plugins.7", "class Plugin"))
    source = """
    from qsmtpd.decision import DECLINED

    def mail(client, envelope):
        return DECLINED
    """
    paths = [home.plugin(name, source) for name in ("quota", "late", "mailtools/greylist")]
    lines = lines.replace("mailtools.greylist", str(paths[-1]))
    home.control("plugins", *lines.splitlines())
    shown = home.run(b"", "--hooks").out.decode()
    order = [line.split()[1] for line in shown.splitlines() if line.split()[0] in ("mail", "rcpt")]
    assert order == ["quota", "greylist", "late", "nosy", "nosy:strict", "relay", "rcpthosts"]


def test_the_order_of_filters() -> None:
    """The list under Order, the sections and the table of the program are the same."""
    page = (ROOT / "man" / "qsmtpd-filters.5").read_text()
    listed = page.partition(".Ss Order\n")[2].partition(".Pp\n")[0]
    assert re.findall(r"^\.Sx (\S+)", listed, re.MULTILINE) == list(BUILT_IN)
    sections = page.partition(".Ss Lists and patterns\n")[2]
    assert re.findall(r"^\.Ss (.+)$", sections, re.MULTILINE) == list(BUILT_IN)
    for name in BUILT_IN:
        assert (ROOT / "qsmtpd" / "filters" / f"{name}.py").exists(), name
