"""Rules per client, in the cdb that tcprules makes.

The data of a key are instructions, each with a NUL behind it: `D`, to refuse
the client, and `+NAME=value`, for its environment.
"""

from __future__ import annotations

import os

from ..config.files import open_cdb
from ..facts import ControlError
from ..net.prefixes import prefixes
from . import status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.cdb import Cdb


class Rules:
    """The rules of one file, which is opened anew when another one has its name.

    With `optional`, a missing file is taken for one without rules.  `opened`: how often.
    """

    __slots__ = ("path", "opened", "_optional", "_cdb", "_seen", "_by_name")

    def __init__(self, path: bytes, optional: bool) -> None:
        self.path = os.path.abspath(path)  # the working directory is another one later
        self.opened = 0
        self._optional = optional
        self._cdb: Cdb | None = None
        self._seen: tuple[int, int] | None = None  # which file it was
        self._by_name: bool | None = None

    def open(self) -> None:
        """Open the file.  Where that cannot be, find() raises the error."""
        try:
            self._current()
        except ControlError:
            pass

    def find(self, ip: bytes, host: bytes | None) -> bytes:
        """The instructions for a client, b"" if there are none.  Raises ControlError.

        An ident name is never known here.
        """
        cdb = self._current()
        if cdb is not None:
            for key in keys(ip, host):
                data = cdb.get(key)
                if data is not None:
                    return data
        return b""

    def by_name(self) -> bool:
        """Is there a rule for a host name?  Raises ControlError."""
        cdb = self._current()
        if self._by_name is None:
            self._by_name = cdb is not None and any(key[:1] == b"=" for key, _ in cdb.items())
        return self._by_name

    def all(self) -> dict[bytes, bytes]:
        """The instructions of every key.  Raises ControlError.

        Of a key that is there twice the first record counts, as for find().
        """
        cdb = self._current()
        found: dict[bytes, bytes] = {}
        for key, data in cdb.items() if cdb is not None else ():
            found.setdefault(key, data)
        return found

    def _current(self) -> Cdb | None:
        try:
            found = os.stat(self.path)
            seen = (found.st_dev, found.st_ino)
        except OSError:
            seen = None  # to open it says why
        if seen is None or seen != self._seen:
            name = os.fsdecode(self.path)
            self._seen = self._by_name = None
            self.opened += 1
            self._cdb = open_cdb(name, self.path)
            if self._cdb is None and not self._optional:
                raise ControlError(name, "No such file or directory")
            self._seen = seen
        return self._cdb


def keys(ip: bytes, host: bytes | None) -> Iterator[bytes]:
    """The keys at which a client's rule is looked for, in tcpserver's order."""
    yield ip
    if host is not None:
        yield b"=" + host
    yield from prefixes(ip)
    if host is not None:
        for start in range(1, len(host)):
            if host[start] == 0x2E:
                yield b"=" + host[start:]
        yield b"="
    yield b""


def denies(data: bytes) -> bool:
    """Do these instructions refuse the client?"""
    return any(entry.startswith(b"D") for entry in data.split(b"\0"))


def variables(data: bytes) -> dict[bytes, bytes]:
    """What these instructions set in the environment of a connection.

    But for QMAILHOME, which would be another one for programs than for the session:
    the control files have been read by then.
    """
    found = {}
    for entry in data.split(b"\0"):
        name, equals, value = entry[1:].partition(b"=")
        if entry.startswith(b"+") and equals and name not in (b"", b"QMAILHOME"):
            found[name] = value
    return found


def report(error: ControlError) -> None:
    """Say that a connection is closed because its rule cannot be read."""
    status.say(f"warning: dropping connection, unable to read {error.name}: {error.reason}")
