"""A client that talks with qsmtpd step by step, in plain text and through TLS.

Everything here is Python's standard library, nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from harness import BIN, PATIENCE, Home, Run, send_and_wait


def client_context(
    certificate: Path | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """What a client that does not look at certificates uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


class Conversation:
    """One running qsmtpd and its client, on a socket pair; a context manager.

    With `helper`, the program is started by a UCSPI-TLS helper (see Helper).
    """

    def __init__(
        self,
        home: Home,
        helper: Helper | None = None,
        arguments: Sequence[str] = (),
        **environ: str,
    ) -> None:
        self._log = home.path / "conversation.log"
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE)
        self.said = b""  # all that the server has said, in this layer
        fds = helper.attach(theirs) if helper else {}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / "qsmtpd", *arguments],
                stdin=theirs,
                stdout=theirs,
                stderr=log,
                env={**home.environ, **environ, **{k: str(fd) for k, fd in fds.items()}},
                pass_fds=list(fds.values()),
            )
        for fd in fds.values():
            os.close(fd)
        theirs.close()
        if helper:
            helper.start(self.process)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.wait(PATIENCE)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_pieces(self, *pieces: bytes) -> None:
        """Each when the one before has been read."""
        for piece in pieces:
            if not send_and_wait(self.socket.fileno(), piece):
                return

    def line(self) -> bytes:
        """One line, read byte by byte so that nothing behind it is taken."""
        line = b""
        while not line.endswith(b"\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                raise EOFError(line)
            line += byte
        self.said += line
        return line[:-2]

    def reply(self) -> bytes:
        """The last line of the next reply."""
        while (line := self.line())[3:4] == b"-":
            pass
        return line

    def ask(self, command: bytes) -> bytes:
        """Send a command; the last line of its reply."""
        self.send(command + b"\r\n")
        return self.reply()

    def handshake(self, context: ssl.SSLContext | None = None, name: str | None = None) -> None:
        """Go over to TLS."""
        self.said = b""
        context = context or client_context()
        self.socket = context.wrap_socket(self.socket, server_hostname=name)

    def starttls(self, context: ssl.SSLContext | None = None, name: str | None = None) -> None:
        """The greeting has been read: STARTTLS, and the handshake."""
        assert self.ask(b"STARTTLS") == b"220 Ready to start TLS (#5.7.0)"
        self.handshake(context, name)

    def rest(self) -> bytes:
        """All that still comes."""
        rest = b""
        with contextlib.suppress(OSError):
            while part := self.socket.recv(65536):
                rest += part
        return rest

    def ended(self) -> Run:
        """Wait for the end; what the log says then."""
        rest = self.rest()
        self.socket.close()
        status = self.process.wait(PATIENCE)
        return Run(rest, self._log.read_text(), status, [])


class Helper:
    """The server's side of UCSPI-TLS, with real TLS: sslserver's dialect or s6's."""

    def __init__(self, certificate: Path, report: bytes, client_ca: Path | None = None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        if client_ca is not None:
            self._context.verify_mode = ssl.CERT_OPTIONAL
            self._context.load_verify_locations(client_ca)
        self._report = report
        self._secured = False
        self.commands = b""  # what came on the control descriptor

    def attach(self, client: socket.socket) -> dict[str, int]:
        """The three descriptors for the program, by the names of their variables."""
        self._client = client.dup()
        self._spare = client.dup()  # TLS takes the other one over
        self._control, control = socket.socketpair()
        read, self._to_program = os.pipe()
        self._from_program, write = os.pipe()
        return {"SSLCTLFD": control.detach(), "SSLREADFD": read, "SSLWRITEFD": write}

    def start(self, process: subprocess.Popen[bytes]) -> None:
        threading.Thread(target=self._run, daemon=True).start()
        threading.Thread(target=self._end, args=(process,), daemon=True).start()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """When the program ends without having asked for anything, or in the handshake."""
        process.wait()
        if not self._secured:
            with contextlib.suppress(OSError):
                self._spare.shutdown(socket.SHUT_RDWR)
        self._spare.close()

    def _run(self) -> None:
        self.commands = self._control.recv(1)
        if self.commands != b"Y":
            self._client.close()
            return
        try:
            tls = self._context.wrap_socket(self._client, server_side=True)
        except (OSError, ValueError):
            self._control.close()
            os.close(self._to_program)
            return
        self._secured = True
        self._control.sendall(self._report)
        # One thread for both directions: a TLS connection is not to be shared.
        with contextlib.suppress(OSError):
            self._pump(tls)
        for fd in (self._to_program, self._from_program):
            os.close(fd)
        tls.close()

    def _pump(self, tls: ssl.SSLSocket) -> None:
        sources: list[ssl.SSLSocket | int] = [tls, self._from_program]
        while self._from_program in sources:
            ready = select.select(sources, [], [])[0]
            if self._from_program in ready:
                tls.settimeout(PATIENCE)
                part = os.read(self._from_program, 65536)
                if not part:
                    tls.unwrap()
                    return
                tls.sendall(part)
            if tls in ready:
                tls.settimeout(0)
                try:
                    part = tls.recv(65536)
                    while tls.pending():
                        part += tls.recv(65536)
                except ssl.SSLWantReadError:
                    continue
                if part:
                    os.write(self._to_program, part)
                else:
                    return


def readable(sock: socket.socket, seconds: float) -> bool:
    """Does anything come within so many seconds?"""
    return bool(select.select([sock], [], [], seconds)[0])
