"""A real tcpserver whose rules, made by tcprules, set what a session's plugins do."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from harness import BIN, PATIENCE, Home, Listener, wait_for
from test_servers import needs


@contextmanager
def tcpserver(home: Home, rules: str, *command: str) -> Iterator[Listener]:
    """tcpserver with these rules (tcprules(1)), in front of qsmtpd with these arguments."""
    cdb = home.path / "rules.cdb"
    tcprules = [needs("tcprules"), cdb, home.path / "rules.new"]
    subprocess.run(tcprules, input=rules.encode(), check=True)
    environ = {k: v for k, v in home.environ.items() if k != "PROTO" and not k.startswith("TCP")}
    options = ["-1", "-HRl", "mx.example", "-x", str(cdb), "127.0.0.1", "0"]
    server = [needs("tcpserver"), *options, str(BIN / "qsmtpd"), *command]
    with Listener(list(server), environ, home.path / "log") as listener:
        yield listener


def converse(listener: Listener, *commands: str | bytes) -> list[str]:
    """Send each command when the last one has been answered; the last lines of the replies.

    It begins with the greeting, and ends when the session has left its line in the log.
    """
    sessions = listener.log().count("event=session")
    with socket.create_connection(("127.0.0.1", listener.port), timeout=PATIENCE) as client:
        stream = client.makefile("rb")
        replies = [_reply(stream)]
        for command in commands:
            client.sendall((command if isinstance(command, bytes) else command.encode()) + b"\r\n")
            replies.append(_reply(stream))
    wait_for(lambda: listener.log().count("event=session") > sessions)
    return replies


def _reply(stream: Iterator[bytes]) -> str:
    line = next(stream, b"")
    while line[3:4] == b"-":
        line = next(stream)
    return line.decode().removesuffix("\r\n")
