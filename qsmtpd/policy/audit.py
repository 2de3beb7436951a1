"""For `qsmtpd --check`: what is set as if it were a filter, and is none that runs."""

from __future__ import annotations

import os

from . import lines, load, order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..control import Settings

_DNS = "wants DNS, which no filter of qsmtpd asks yet"
_CONTENT = "looks into messages, which no filter of qsmtpd does yet"
_BAD = "is another patch's; use badmailfrom, badrcptto or badhelo"
#: Variables and control files of qmail's patches that mean a filter there, and
#: nothing here: nobody should believe that they are at work.
NOT_DONE_VARIABLES = {
    "MFDNSCHECK": _DNS,
    "DNSBLLIST": _DNS,
    "SPF": _DNS,
    "SPFBEHAVIOR": _DNS,
    "POSTGREY": "wants greylisting, which qsmtpd does not do yet",
    "BADMIMETYPE": _CONTENT,
    "BADLOADERTYPE": _CONTENT,
    "ENABLE_SPP": "wants qmail-spp's plugins: see qsmtpd-plugins(7) for those of qsmtpd",
}
NOT_DONE_FILES = {
    "badmimetypes": _CONTENT,
    "badmimetypes.cdb": _CONTENT,
    "badloadertypes": _CONTENT,
    "badloadertypes.cdb": _CONTENT,
    "dnsbllist": _DNS,
    "spfbehavior": _DNS,
    "smtpplugins": NOT_DONE_VARIABLES["ENABLE_SPP"],
    "validrcptto": "is another patch's; use recipients",
    "badmailto": _BAD,
    "badmailfromnorelay": _BAD,
    "badrcpttonorelay": _BAD,
    "badhelonorelay": _BAD,
    "maxrcpt": "is another patch's; use maxrecipients",
    "brtlimit": "is another patch's; use TARPITCOUNT",
}


def plugins(settings: Settings) -> list[str]:
    """The names of the plugins that a session would have, in order.  Raises ControlError."""
    return [line.name for line in load.chosen(settings)]


def idle_switches(settings: Settings) -> list[tuple[str, str]]:
    """What is set and does nothing: (the file or variable, why).  Raises ControlError."""
    running = {line.plugin for line in load.chosen(settings)}
    found = [
        (switch, f"is set, but its filter {name} has been taken out by {lines.VARIABLE}")
        for name in order.BUILT_IN
        if name not in running
        for switch in order.switches(name, settings)
    ]
    for variable, why in NOT_DONE_VARIABLES.items():
        if settings.environ.get(variable.encode("ascii"), b"-") != b"-":
            found.append((variable, why))
    for file, why in NOT_DONE_FILES.items():
        if os.path.lexists(settings.controls.path(file)):
            found.append(("control/" + file, why))
    return found
