"""Milters of Debian's, started by a test as the scanners are; and how each is made to speak."""

from __future__ import annotations

import base64
import functools
import struct

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from milters import raw
from scanners import Clamd, Rspamd, Scanner, Spamd

NEGOTIATION = raw(b"O", struct.pack(">III", 6, 0x1FF, 0x1FFFFF))


class MilterProgram(Scanner):
    """One of them; `address` is its milter's socket."""

    PING, PONG = NEGOTIATION, b"\0\0\0"

    def conf(self, text: str) -> str:
        """Write its configuration; the path."""
        path = self.folder / "conf"
        path.write_text(text.format(folder=self.folder, socket=self.socket))
        return str(path)


class OpenDkim(MilterProgram):
    """Signs for b.example (mode s), or verifies with keys that are in a file (mode v).

    It refuses a signature that is bad, and defers one whose key cannot be had.
    """

    program = "opendkim"
    CONF = """
Socket local:{socket}
Mode %s
UMask 000
AutoRestart no
Syslog no
PidFile {folder}/pid
Domain b.example
Selector s1
KeyFile {folder}/key
RequireSafeKeys no
TestPublicKeys {folder}/keys
InternalHosts {folder}/internal
ExternalIgnoreList {folder}/internal
On-BadSignature reject
On-KeyNotFound tempfail
On-DNSError tempfail
AuthservID mx.example
AlwaysAddARHeader yes
"""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode
        (self.folder / "internal").write_text("127.0.0.1\n192.0.2.1\n" if mode == "s" else "::1\n")
        private, public = key()
        (self.folder / "key").write_text(private)
        (self.folder / "keys").write_text(f"s1._domainkey.b.example v=DKIM1; k=rsa; p={public}\n")

    def configure(self) -> list[str]:
        return ["-f", "-x", self.conf(self.CONF % self._mode)]


class OpenDmarc(MilterProgram):
    """Refuses what has no From or no Date; says of the rest what it knows."""

    program = "opendmarc"
    CONF = """
Socket local:{socket}
UMask 000
Syslog false
PidFile {folder}/pid
AuthservID mx.example
TrustedAuthservIDs mx.example
RequiredHeaders true
RejectFailures true
SoftwareHeader true
"""

    def configure(self) -> list[str]:
        return ["-f", "-c", self.conf(self.CONF)]


class ClamavMilter(MilterProgram):
    """Asks a clamd, which it starts and stops; `infected` is what becomes of a virus."""

    program = "clamav-milter"
    CONF = """
MilterSocket unix:{socket}
MilterSocketMode 666
Foreground yes
PidFile {folder}/pid
TemporaryDirectory {folder}
AddHeader Replace
ClamdSocket unix:%s
OnInfected %s
OnFail Defer
"""

    def __init__(self, clamd: Clamd, infected: str = "Reject") -> None:
        super().__init__()
        self._clamd = clamd
        self._infected = infected

    def configure(self) -> list[str]:
        return ["-c", self.conf(self.CONF % (self._clamd.socket, self._infected))]


class SpamdOfMilter(Spamd):
    """A spamd whose header lines are those that spamass-milter reads."""

    RULES = Spamd.RULES + (
        "add_header spam Flag _YESNOCAPS_\n"
        "add_header all Level _STARS(*)_\n"
        'add_header all Status "_YESNO_, score=_SCORE_ required=_REQD_ tests=_TESTS_"\n'
    )


class SpamassMilter(MilterProgram):
    """Asks a spamd by spamc: refuses what has 15 points or more."""

    program = "spamass-milter"

    def __init__(self, spamd: Spamd) -> None:
        super().__init__()
        self._spamd = spamd

    def configure(self) -> list[str]:
        return ["-p", str(self.socket), "-r", "15", "--", "-U", str(self._spamd.socket)]


class RspamdMilter(Rspamd):
    """rspamd's proxy, which speaks as a milter."""

    def __init__(self) -> None:
        super().__init__()
        self.address = self.milter


@functools.cache
def key() -> tuple[str, str]:
    """A private key, and the public one as a DKIM record has it."""
    made = rsa.generate_private_key(65537, 2048)
    private = made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = made.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), base64.b64encode(public).decode()
