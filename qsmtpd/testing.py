"""A test kit for plugins: run one through a session in a few lines.

    from qsmtpd.testing import converse

    def test_it_refuses() -> None:
        talk = converse(
            "/var/qmail/plugins/nosy.py limit=3",
            ["EHLO client.example", "MAIL FROM:<a@b.example>", "RCPT TO:<x@ok.example>"],
        )
        assert talk.replies[-1] == "550 no (#5.7.1)"

There is no client, no queue program and no waiting; the session, the hooks
and the settings are the real ones.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .config.files import ControlFiles
from .config.settings import Settings
from .diagnose.dryrun import DryRun
from .log import Log
from .net import ucspi
from .policy import external as outside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .facts import Tls

#: The client of every conversation, unless `environ` says otherwise.
ENVIRON = {
    "PROTO": "TCP",
    "TCPREMOTEIP": "192.0.2.1",
    "TCPREMOTEHOST": "client.example",
    "TCPLOCALIP": "192.0.2.9",
    "TCPLOCALHOST": "mx.example",
    "ERRORDELAY": "0",
}
CONTROLS = {"me": "mx.example", "rcpthosts": "ok.example"}


@dataclass
class Delivered:
    """A message that would have been handed to the queue program."""

    sender: str
    recipients: list[str]
    text: str  # with our Received and what plugins have added; LF line ends


@dataclass
class Talk:
    """What came of a conversation.  Bytes that are not ASCII are shown as \\xNN."""

    #: One for the greeting and one for each command; lines are separated by LF.
    replies: list[str] = field(default_factory=list)
    messages: list[Delivered] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    #: How long the client would have waited, each time (seconds).
    pauses: list[float] = field(default_factory=list)


def converse(
    plugins: str | Sequence[str],
    commands: Sequence[str | bytes],
    *,
    environ: Mapping[str, str] | None = None,
    controls: Mapping[str, str] | None = None,
    tls: Tls | None = None,
    checkpassword: Sequence[str] = (),
) -> Talk:
    """Run a session with these plugins, and say these commands in it.

    `plugins` are the lines of control/plugins, of which a name may be the path
    of a file; `commands` have no CRLF, and behind DATA stands the message, with
    LF line ends and without the last dot.  `controls` are more control files;
    `tls`, facts of encryption, as in Tls(b"TLSv1.3"); with `checkpassword`, a
    program with its arguments, AUTH is allowed.  Raises ControlError where a
    session would answer 421.
    """
    talk = Talk()
    lines = [plugins] if isinstance(plugins, str) else plugins
    outside.forget()
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile() as log:
        control = Path(home, "control")
        control.mkdir()
        files = {**CONTROLS, "plugins": "\n".join(lines), **(controls or {})}
        for name, text in files.items():
            (control / name).write_bytes(text.encode() + b"\n")
        logins = {"SMTPAUTH": "", "AUTHCLEAR": "1"} if checkpassword else {}
        variables = {**ENVIRON, **logins, **(environ or {})}
        raw = {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}
        dry_run = DryRun(
            Settings(ControlFiles(os.fsencode(home)), raw),
            ucspi.read_peer(raw),
            Log(log.fileno()),
            tls,
            [os.fsencode(word) for word in checkpassword],
        )
        said = [x if isinstance(x, bytes) else x.encode() for x in commands]
        try:
            dry_run.run(said, lambda told: None, lambda reply: talk.replies.append(_text(reply)))
        except SystemExit:
            pass  # a plugin did not stop: the last reply is 421, as in a real session
        log.seek(0)
        talk.log = _text(log.read()).splitlines()
    talk.pauses = dry_run.pauses
    for sender, recipients, message in dry_run.back_end.messages:
        to = [_text(recipient) for recipient in recipients]
        talk.messages.append(Delivered(_text(sender), to, _text(message)))
    return talk


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace")
