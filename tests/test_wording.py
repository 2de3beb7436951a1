"""REPLY_ variables: what an administrator adds to a refusal, and nothing else."""

from __future__ import annotations

import pytest
from harness import Home
from ruled import converse, tcpserver

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import EXTRA_TEXT_LIMIT as LIMIT
from qsmtpd.config.settings import Settings
from qsmtpd.facts import ControlError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, b"sorry"),
        (b"", b"sorry"),
        (b"ask me", b"sorry ask me"),
        (b"x" * LIMIT, b"sorry " + b"x" * LIMIT),
        (b"x" * (LIMIT + 1), None),
        (b"a\r\n250 ok", None),
        (b"a\tb", None),
        (b"caf\xe9", None),
        (b"\x7f", None),
    ],
)
def test_worded(value: bytes | None, text: bytes | None) -> None:
    environ = {} if value is None else {b"REPLY_X": value}
    settings = Settings(ControlFiles(b"/nonexistent"), environ)
    if text is not None:
        assert settings.worded(b"sorry", "REPLY_X") == text
        return
    with pytest.raises(ControlError) as caught:
        settings.worded(b"sorry", "REPLY_X")
    assert caught.value.name == "REPLY_X"


def test_in_a_session(home: Home) -> None:
    home.control("databytes", "100")
    rules = '127.:allow,REPLY_NOGATEWAY="see http://a.example/",REPLY_MAXSIZE="call 123"\n'
    too_big = "552 sorry, that message size exceeds my databytes limit call 123 (#5.3.4)"
    with tcpserver(home, rules) as listener:
        replies = converse(
            listener,
            "MAIL FROM:<a@b.example> SIZE=101",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<x@no.example>",
            "RCPT TO:<x@ok.example>",
            "DATA",
            "x" * 101 + "\r\n.",
            "QUIT",
        )
    assert replies[1] == replies[6] == too_big
    assert replies[3] == (
        "553 sorry, that domain isn't in my list of allowed rcpthosts "
        "see http://a.example/ (#5.7.1)"
    )
    assert home.messages() == []


def test_without_them(home: Home) -> None:
    """The two spaces that SPAMCONTROL leaves where its variable is empty are not ours."""
    with tcpserver(home, '127.:allow,REPLY_NOGATEWAY=""\n') as listener:
        replies = converse(listener, "MAIL FROM:<a@b.example>", "RCPT TO:<x@no.example>", "QUIT")
    assert replies[2] == "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"


def test_a_text_that_cannot_be(home: Home) -> None:
    with tcpserver(home, f'127.:allow,REPLY_NOGATEWAY="{"x" * 301}"\n') as listener:
        assert converse(listener) == ["421 unable to read controls (#4.3.0)"]
    assert "name=REPLY_NOGATEWAY" in listener.log()
