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

SLOWNESS = 0.1  # seconds that a helper may take to pass something on


class Helper:
    """The server's side of UCSPI-TLS, with real TLS: sslserver's dialect or s6's.

    With `gives_up`, it ends at once when nobody reads its pipe to the program
    any more, even if it has something from there: it holds the reply to QUIT
    back until the program has closed either pipe.
    """

    def __init__(
        self,
        certificate: Path,
        report: bytes,
        client_ca: Path | None = None,
        gives_up: bool = False,
    ) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        if client_ca is not None:
            self._context.verify_mode = ssl.CERT_OPTIONAL
            self._context.load_verify_locations(client_ca)
        self._report = report
        self._gives_up = gives_up
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

    def in_front(self, client: socket.socket) -> tuple[int, int]:
        """Without UCSPI-TLS: start with the handshake; descriptors 0 and 1 for the program."""
        read, self._to_program = os.pipe()
        self._from_program, write = os.pipe()
        self._client = client
        threading.Thread(target=self._encrypt, daemon=True).start()
        return read, write

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
        self._serve(tls)

    def _encrypt(self) -> None:
        self._serve(self._context.wrap_socket(self._client, server_side=True))

    def _serve(self, tls: ssl.SSLSocket) -> None:
        # One thread for both directions: a TLS connection is not to be shared.
        with contextlib.suppress(OSError):
            self._pump(tls)
        for fd in (self._to_program, self._from_program):
            os.close(fd)
        tls.close()

    def _is_read(self) -> bool:
        """Wait until the program has closed a pipe; does it go on to read the other?"""
        writes, reads = select.poll(), select.poll()
        writes.register(self._from_program, select.POLLIN)
        writes.poll(PATIENCE * 1000)
        reads.register(self._to_program, 0)
        return not reads.poll(SLOWNESS * 1000)

    def _pump(self, tls: ssl.SSLSocket) -> None:
        sources: list[ssl.SSLSocket | int] = [tls, self._from_program]
        while self._from_program in sources:
            ready = select.select(sources, [], [])[0]
            if self._from_program in ready:
                tls.settimeout(PATIENCE)
                part = os.read(self._from_program, 65536)
                if self._gives_up and b"\n221 " in b"\n" + part and not self._is_read():
                    return
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
