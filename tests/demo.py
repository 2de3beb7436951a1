"""make demo, make serve: a real listener on this machine, and a message through it."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import smtplib
import ssl
import subprocess
import sys
import threading
import time
from email.message import EmailMessage
from pathlib import Path
from typing import IO

from certificates import Certificate

BIN = Path(sys.prefix) / "bin"


def main() -> None:
    """Set up a QMAILHOME of its own, start qsmtpd-server, and use it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="2525")
    parser.add_argument("--serve", action="store_true", help="keep running until ^C")
    parser.add_argument("home", type=Path)
    options = parser.parse_args()
    if not (options.port.isdigit() and int(options.port) <= 65535):
        sys.exit(f"PORT must be a number from 0 to 65535, not {options.port!r}")
    # Whole lines, as soon as they are there: two threads write them.
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True, write_through=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    home = options.home.resolve()
    environ = prepare(home)
    server = subprocess.Popen(
        [BIN / "qsmtpd-server", "-1", "-l", "mx.demo.example", "127.0.0.1", options.port],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None and server.stderr is not None
    log = Log(server.stderr)
    port = server.stdout.readline().strip()  # it is printed when it listens
    if not port:
        log.join()
        again = f"make {'serve' if options.serve else 'demo'} PORT={int(options.port) % 65535 + 1}"
        sys.exit(f"There is no listener: is port {options.port} in use?  Try {again}")
    try:
        if options.serve:
            print(f"Listening on 127.0.0.1 port {port}; mail for demo.example goes to")
            print(f"{home}/Maildir.  Stop with ^C.  Log lines follow.")
            print(f"To send by hand: {by_hand(port)}")
            server.wait()
        else:
            show(int(port), home)
            log.session.wait(timeout=30)
            stored = newest(home / "Maildir")
            print(f"\n== the message as stored ({stored})")
            print(stored.read_text())
            print(f"\nTo keep it running:   make serve PORT={port}")
            print(f"To send by hand then: {by_hand(port)}")
            print(f"\nShown: a message sent to port {port} through STARTTLS is now in {stored}")
    except KeyboardInterrupt:
        print()
    finally:
        server.terminate()
        server.wait()


class Log(threading.Thread):
    """Shows the server's log lines."""

    def __init__(self, lines: IO[str]) -> None:
        super().__init__(daemon=True)
        self._lines = lines
        #: Set when a session has ended, or the server.
        self.session = threading.Event()
        self.start()

    def run(self) -> None:
        for line in self._lines:
            print(line, end="")
            if line.startswith("event=session "):
                self.session.set()
        self.session.set()


def by_hand(port: str) -> str:
    """A command that sends a message, with nothing but Python."""
    return (
        'python3 -c "import smtplib;'
        f" smtplib.SMTP('127.0.0.1', {port}).sendmail("
        "'me@demo.example', 'you@demo.example', 'Subject: hi\\n\\nhello\\n')\""
    )


def prepare(home: Path) -> dict[str, str]:
    """Make the control files of the demo, and the environment that names them."""
    control = home / "control"
    control.mkdir(parents=True, exist_ok=True)
    (control / "me").write_text("mx.demo.example\n")
    (control / "rcpthosts").write_text("demo.example\n")
    if not (control / "servercert.pem").exists():
        Certificate("localhost", days=365).save(control / "servercert.pem")
    return {
        **os.environ,
        "QMAILHOME": str(home),
        "QMAILQUEUE": str(BIN / "qsmtpd-maildir"),
        "QSMTPD_MAILDIR": str(home / "Maildir"),
    }


def show(port: int, home: Path) -> None:
    """Send one message with Python's smtplib, and show the session."""
    message = EmailMessage()
    message["From"] = "me@demo.example"
    message["To"] = "you@demo.example"
    message["Subject"] = "a message through qsmtpd"
    message.set_content("It arrived at " + time.strftime("%H:%M:%S") + ".\n.A line with a dot.\n")
    print(f"== the session (client: Python's smtplib; server: qsmtpd, port {port})")
    with (
        contextlib.redirect_stderr(sys.stdout),  # where smtplib prints what it says and hears
        smtplib.SMTP("localhost", port, local_hostname="client.demo.example") as client,
    ):
        client.set_debuglevel(1)
        authority = str(home / "control" / "servercert.pem")
        client.starttls(context=ssl.create_default_context(cafile=authority))
        client.send_message(message)


def newest(maildir: Path) -> Path:
    """The message that was stored last."""
    return max((maildir / "new").iterdir(), key=lambda path: path.stat().st_mtime_ns)


if __name__ == "__main__":
    main()
