"""For `qsmtpd --check`: is SMTPUTF8 to be had, and do lists say what can match?"""

from __future__ import annotations

from ..smtp import utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from .report import Report

#: The lists whose entries are compared with addresses.
LISTS = ("rcpthosts", "badmailfrom", "badrcptto", "recipients", "mailfromrules")


def check_utf8(report: Report, settings: Settings) -> None:
    """Raises ControlError where there is no library for it."""
    utf8.library()
    for file in LISTS:
        for entry in settings.lines(file) or ():
            if not entry.isascii() and not entry.startswith((b"re:", b"!re:")):
                _check_entry(report, file, entry)
    listed = {entry.lower() for entry in settings.lines("rcpthosts") or ()}
    for entry in sorted(listed):
        *_, plain = utf8.forms(entry)
        if not entry.isascii() and plain not in listed:
            what = f"has {_shown(entry)} and not {_shown(plain)}, as clients without SMTPUTF8 say"
            report.warn("control/rcpthosts", what)


def _check_entry(report: Report, file: str, entry: bytes) -> None:
    try:
        utf8.folded(entry)
    except ValueError as error:
        why = "is not in UTF-8" if isinstance(error, UnicodeError) else str(error)
        report.warn("control/" + file, f"{_shown(entry)} {why}: with SMTPUTF8 it matches nothing")


def _shown(entry: bytes) -> str:
    return entry[:80].decode("ascii", "backslashreplace")
