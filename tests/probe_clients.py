"""A small mail client for the tests of starttls-probe: sound, or with one fault."""

from __future__ import annotations

import base64
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from client import PATIENCE

USER, PASSWORD = b"user", b"secret-password"


@dataclass(frozen=True)
class Faults:
    """What is wrong with the client.  As it stands, nothing: it insists on TLS and has a password.

    `in_clear` is in which case it goes on without TLS: stripped, refused or
    early; `password_in_clear` whether with its password.
    """

    keeps_buffer: bool = False
    keeps_keywords: bool = False
    in_clear: str = ""
    password_in_clear: bool = False
    checks_name: bool = True
    checks_certificate: bool = True
    opportunistic: bool = False  # takes any certificate, has no password
    no_second_hello: bool = False
    name: str = "localhost"  # under which it knows the server
    looks_late: bool = False  # at the name: after the handshake
    idle: bool = False  # says EHLO, and no more


class GivesUp(Exception):
    """The client does not go on."""


class Client:
    """One try to send a message."""

    def __init__(self, port: int, authority: str | None, faults: Faults) -> None:
        self.faults = faults
        self.authority = authority
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.buffer = b""

    def reply(self) -> tuple[int, list[bytes]]:
        lines = []
        while True:
            while b"\r\n" not in self.buffer:
                data = self.sock.recv(4096)
                if not data:
                    raise GivesUp
                self.buffer += data
            line, _, self.buffer = self.buffer.partition(b"\r\n")
            lines.append(line[4:])
            if line[3:4] != b"-":
                return int(line[:3]), lines

    def ask(self, command: bytes) -> tuple[int, list[bytes]]:
        self.sock.sendall(command + b"\r\n")
        return self.reply()

    def need(self, command: bytes) -> list[bytes]:
        code, lines = self.ask(command)
        if code >= 400:
            raise GivesUp
        return lines

    def send(self) -> None:
        """Try; leave when something is not as it should be."""
        try:
            self._send()
        except (GivesUp, OSError):
            pass
        finally:
            self.sock.close()

    def _send(self) -> None:
        self.reply()
        if self.buffer and self.faults.in_clear != "early":
            raise GivesUp
        keywords = self.need(b"EHLO client.invalid")
        secure = self._secure(keywords)
        if secure and not self.faults.no_second_hello:
            inside = self.need(b"EHLO client.invalid")
            keywords = keywords if self.faults.keeps_keywords else inside
        if self.faults.idle:
            raise GivesUp
        password = self.faults.password_in_clear if not secure else not self.faults.opportunistic
        if password and any(keyword.startswith(b"AUTH ") for keyword in keywords):
            secret = base64.b64encode(b"\0" + USER + b"\0" + PASSWORD)
            self.need(b"AUTH PLAIN " + secret)
        self.need(b"MAIL FROM:<>")
        self.need(b"RCPT TO:<recipient@example.invalid>")
        self.need(b"DATA")

    def _secure(self, keywords: list[bytes]) -> bool:
        """Begin TLS; False where it goes on without."""
        if b"STARTTLS" not in keywords:
            if self.faults.in_clear == "stripped" or self.faults.in_clear == "early":
                return False
            raise GivesUp
        if self.ask(b"STARTTLS")[0] != 220:
            if self.faults.in_clear == "refused":
                return False
            raise GivesUp
        if not self.faults.keeps_buffer:
            self.buffer = b""
        context = ssl.create_default_context(cafile=self.authority)
        if not self.faults.checks_name or self.faults.looks_late:
            context.check_hostname = False
        if not self.faults.checks_certificate or self.faults.opportunistic:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=self.faults.name)
        if self.faults.looks_late:
            found: dict[str, Any] = self.sock.getpeercert() or {}
            names = [name for _, name in found["subjectAltName"]]
            if self.faults.name not in names:
                raise GivesUp
        return True
