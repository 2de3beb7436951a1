"""Where a session goes wrong in qsmtpd itself: the client hears of it, the plugins too."""

from __future__ import annotations

import subprocess

from harness import BIN, ROOT, Home
from run import Run

#: Of a session: what it imports and calls is made to fail by the code before.
START = "import sys\nsys.path.insert(0, sys.argv[1])\n%s\nfrom qsmtpd import main; main.main([])"


def run(home: Home, before: str, commands: bytes) -> Run:
    """A session in a process in which `before` was run first."""
    done = subprocess.run(
        [BIN / "python3", "-IS", "-c", START % before, str(ROOT)],
        input=commands,
        capture_output=True,
        env=home.environ,
        check=False,
    )
    return Run(done.stdout, done.stderr.decode(), done.returncode, [])


NOTES = """
    from qsmtpd.decision import DECLINED

    class Plugin:
        def __init__(self, settings):
            self._log = settings.log
        def mail(self, client, envelope):
            return DECLINED
        def reset(self, client):
            self._log(note="reset")
        def disconnect(self, client):
            self._log(note="disconnect")
"""


def notes(done: Run) -> list[str]:
    return [line["note"] for line in done.events("plugin")]


def test_an_exception_before_the_session(home: Home) -> None:
    before = "from qsmtpd.config import session\nsession.Limits.__init__ = lambda *_: 1 / 0"
    done = run(home, before, b"")
    assert done.lines == [b"421 internal trouble, try again later (#4.3.0)"]
    assert done.status == 111
    assert done.event("trouble")["error"] == "ZeroDivisionError"
    assert done.event("session")["end"] == "trouble"


def test_an_exception_before_implicit_tls(home: Home) -> None:
    """A client that waits for a handshake would not understand it."""
    home.environ["SMTPS"] = "1"
    before = "from qsmtpd.tls import provider\nprovider.find = lambda *_: 1 / 0"
    done = run(home, before, b"")
    assert (done.out, done.status) == (b"", 111)
    assert done.event("session")["end"] == "trouble"


def test_an_import_that_fails_inside_data(home: Home) -> None:
    """It ends the transaction, like every other DATA."""
    home.plugin("notes", NOTES)
    home.control("plugins", "notes")
    transaction = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n"
    before = "sys.modules['qsmtpd.session.data'] = None"
    done = run(home, before, transaction + b"RCPT TO:<x@ok.example>\r\nQUIT\r\n")
    assert done.codes == [220, 250, 250, 451, 503, 221]
    assert notes(done) == ["reset", "disconnect"]


def test_disconnect_is_called_once(inside: Home) -> None:
    """The plugins cannot be made again after STARTTLS: the old ones have heard already."""
    source = NOTES.replace("class Plugin", "made = []\n\n    class Plugin").replace(
        "self._log = settings.log", "made.append(1)\n            self._log = settings.log"
    )
    inside.plugin("notes", source.replace("made.append(1)", "made.append(1 // (not made))"))
    inside.control("plugins", "notes")
    talk = inside.talk()
    talk.reply()
    talk.starttls()
    assert talk.reply() == b"421 unable to read controls (#4.3.0)"
    done = talk.end(quit=False)
    assert "ZeroDivisionError" in done.event("control")["reason"]
    assert notes(done) == ["disconnect"]


def test_a_client_that_leaves_within_data_is_one_reset(home: Home) -> None:
    home.plugin("notes", NOTES)
    home.control("plugins", "notes")
    done = home.run(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nSubject: x\r\n")
    assert done.event("message")["verdict"] == "aborted"
    assert notes(done) == ["reset", "disconnect"]


def test_by_names_who_refused(home: Home) -> None:
    """Not a plugin that accepts a command that is then unknown all the same."""
    home.plugin(
        "odd",
        """
        from qsmtpd.decision import accept

        def unknown(client, line):
            return accept()
        """,
    )
    home.control("plugins", "odd")
    done = home.run(b"FOO\r\nQUIT\r\n")
    assert done.codes == [220, 502, 221]
    assert "by" not in done.event("refused")
