"""The server's side of UCSPI-TLS: what stands between a client and the program.

Python's standard library, nothing of qsmtpd.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import subprocess
import threading
from pathlib import Path

from client import PATIENCE


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
        #: Our end of the control descriptor, and what came on it.
        self.control: socket.socket
        self.commands = b""

    def attach(self, client: socket.socket) -> dict[str, int]:
        """The three descriptors for the program, by the names of their variables."""
        self._client = client.dup()
        self._spare = client.dup()  # TLS takes the other one over
        self.control, theirs = socket.socketpair()
        read, self._to_program = os.pipe()
        self._from_program, write = os.pipe()
        return {"SSLCTLFD": theirs.detach(), "SSLREADFD": read, "SSLWRITEFD": write}

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
        self.commands = self.control.recv(1)
        if self.commands != b"Y":
            self._client.close()
            return
        try:
            tls = self._context.wrap_socket(self._client, server_side=True)
        except (OSError, ValueError):
            self.control.close()
            os.close(self._to_program)
            return
        self._secured = True
        self.control.sendall(self._report)
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
