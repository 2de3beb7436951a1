"""The clients of the QMQP server: who is one of them may send to anybody, and nobody else at all.

control/qmqpclients has one a line (see net/addresslist.py).  The variable QMQPCLIENT, set and
not `0`, makes every client one, so it is for a rule.
"""

from __future__ import annotations

from ..net.addresslist import WHAT, AddressList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..session.protocol import Report

FILE, VARIABLE = "qmqpclients", "QMQPCLIENT"


class QmqpClients:
    """Those that are listed; `everybody` is by the variable.  Raises ControlError."""

    __slots__ = ("everybody", "listed")

    def __init__(self, settings: Settings) -> None:
        self.everybody = settings.flag(VARIABLE)
        entries = settings.lines(FILE)
        #: None where there is no file.
        self.listed: AddressList | None = None
        if entries is not None:
            self.listed = AddressList()
            for entry in entries:
                if not self.listed.add(entry):
                    raise settings.bad_entry(FILE, entry, WHAT)

    def __contains__(self, ip: bytes, /) -> bool:
        """Is this address, in its canonical spelling, one of theirs?"""
        return self.everybody or (self.listed is not None and ip in self.listed)


def check_clients(report: Report, clients: QmqpClients, is_there: bool) -> None:
    """Is there anybody?  `is_there`: there is a file; that it cannot be read has been said."""
    if clients.everybody:
        report.warn(VARIABLE, "is set: who is served may send to anybody, so it is for a rule")
    elif clients.listed is None and is_there:
        pass
    elif not clients.listed:
        what = "is missing" if clients.listed is None else "has no entry"
        report.wrong("control/" + FILE, f"{what}, so every client is refused")
    elif clients.listed.everybody:
        report.warn(
            "control/" + FILE, "has a network of all addresses: anybody may send to anybody"
        )
