"""For --check: could a message be handed to a hub of control/qmqpservers?

A connection is made to each, and nothing is sent.  A hub that does not take this client closes at
once, for which a little is waited, or says so, be it after a while (Postfix's: a second).  One that
does, waits for the request, and when it hears that there is none, it closes without a word.
"""

from __future__ import annotations

import os

from ..config.files import ControlFiles, temporary
from ..config.files import home as home_of
from ..config.settings import Settings
from ..facts import ControlError
from ..net import qmqp
from ..net.daemon import TIMEOUT, Daemon, NoAnswer
from ..smtp.netstring import Malformed, split
from .noted import NotedSettings
from .report import PATIENCE, Report
from .spool import is_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..net.daemon import Address

#: What is waited for a hub that closes (seconds).
LITTLE = 0.3
#: Of a text that a hub says (bytes).
_TEXT_LIMIT = 1000


def check(environ: Mapping[bytes, bytes]) -> int:
    """`qsmtpd-qmqpc --check`: print what is found; 0, or 1 where no message would flow."""
    report = Report()
    home = home_of(environ)
    report.ok("home", os.fsdecode(home), "QMAILHOME" if b"QMAILHOME" in environ else "default")
    report.attempt(lambda: check_hubs(report, Settings(ControlFiles(home), environ)))
    return report.print()


def check_hubs(report: Report, settings: Settings, queue_timeout: int | None = None) -> None:
    """Say it of each.  `queue_timeout`: of the qsmtpd in front of it."""
    noted = NotedSettings(settings.files, settings.environ, report)
    try:
        settings.lines(qmqp.FILE)  # what cannot be read is not called missing
        found = qmqp.HubSettings(noted)
    except ControlError as error:
        report.wrong(error.name, error.reason)
        return
    if queue_timeout is not None and found.timeout >= queue_timeout:
        what = f"is {found.timeout}, no less than queuetimeout: whoever is ended by that"
        report.warn("qmqpctimeout", f"{what} cannot say whether the hub has the message")
    reach(report, found)


def reach(report: Report, found: qmqp.HubSettings) -> None:
    """Can a message be handed to them?"""
    if is_place(report):
        report.note("TMPDIR", os.fsdecode(temporary()), "it takes the files of long messages")
    reached = 0
    wait = min(PATIENCE, found.connect_timeout)
    for hub in found.hubs:
        try:
            places = hub.addresses(wait)
        except NoAnswer as error:
            report.warn("control/" + qmqp.FILE, f"{_text(hub.text)} is not found: {error}")
            continue
        for place in places:
            problem, said = _try(place, wait)
            if problem is None:
                reached += 1
                report.note("hub", _text(place.text), "it takes a connection")
                continue
            # What a hub has answered is what becomes of a message: no other one is asked.
            tell = report.wrong if said else report.warn
            tell("control/" + qmqp.FILE, f"{_text(place.text)} {problem}")
    if not reached:
        report.wrong("control/" + qmqp.FILE, "names no hub that can be reached")


def _try(place: Address, wait: float) -> tuple[str | None, bool]:
    """(why nothing could be handed to it, as far as that is to be seen, or None; has it said so)"""
    try:
        daemon = Daemon(place, wait, _TEXT_LIMIT)
    except NoAnswer as error:
        return f"cannot be reached: {error}", False
    try:
        daemon.renew(PATIENCE, _TEXT_LIMIT)
        waited = daemon.keeps_still(LITTLE)
        daemon.end_input()
        said = daemon.rest()
    except NoAnswer as error:
        problem = None if str(error) == TIMEOUT else f"does not wait for a message: {error}"
        return problem, False
    finally:
        daemon.close()
    if said:
        return f"refuses this client: {_text(_answer(said))}", True
    if waited:
        return None, False
    return "closes the connection at once: it may not take this client", False


def _answer(said: bytes) -> bytes:
    """The text of a netstring, or all that was said where it is none."""
    try:
        return next(split(said), said)
    except Malformed:
        return said


def _text(text: bytes) -> str:
    return text.decode("ascii", "backslashreplace")
