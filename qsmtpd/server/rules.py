"""The file of the rules per client (see net/tcprules.py), which may change while we serve."""

from __future__ import annotations

import os

from ..config.files import open_cdb
from ..facts import ControlError
from ..net import proxy, tcprules
from ..net.tcprules import denies as denies
from ..net.tcprules import variables as variables
from ..net.tcprules import without_rights
from . import status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.cdb import Cdb

_TLS = (b"SSL_PROTOCOL", b"SSL_CIPHER")


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
        """The instructions for a client, b"" if there are none.  Raises ControlError."""
        cdb = self._current()
        return b"" if cdb is None else tcprules.find(cdb, ip, host)

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


def rule_of(found: bytes, facts: dict[bytes, bytes]) -> bytes:
    """The instructions for a client that has come with these facts of a header.

    Whom it does not name has no rights; TLS in front makes another plan, and is then no
    fact any more: the plan says whether it counts.
    """
    if facts[b"PROXYHEADER"] != proxy.PROXY:
        found = without_rights(found)
    if found and not found.endswith(b"\0"):
        found += b"\0"
    return found + b"".join(b"+%b=%b\0" % (name, facts.pop(name)) for name in _TLS if name in facts)


def report(error: ControlError) -> None:
    """Say that a connection is closed because its rule cannot be read."""
    status.say(f"warning: dropping connection, unable to read {error.name}: {error.reason}")
