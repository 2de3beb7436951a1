"""control/smtpplugins of qmail-spp: which plugins run in which section.

A section begins with a line `[name]`, of which the first letter counts; the lines in
it are plugins: the path of a program, relative to QMAILHOME and without arguments, or
behind a `:` a command for /bin/sh.
"""

from __future__ import annotations

from ..config.settings import shown
from ..facts import ControlError

CONNECTION, HELO, AUTH, MAIL, RCPT, DATA = SECTIONS = (
    "connection",
    "helo",
    "auth",
    "mail",
    "rcpt",
    "data",
)
SHELL = b"/bin/sh"
PLUGINS_LIMIT = 50
_LETTERS = {section[:1].encode("ascii"): section for section in SECTIONS}


class Program:
    """A plugin: `command` is what is run, `name` what it is called in the log."""

    __slots__ = ("name", "command")

    def __init__(self, line: bytes) -> None:
        self.name = line
        self.command = [SHELL, b"-c", line[1:]] if line.startswith(b":") else [line]


def parse(lines: list[bytes], where: str) -> dict[str, list[Program]]:
    """The plugins of each section, without those that have none.  Raises ControlError.

    `where` is the file, for errors.
    """
    found: dict[str, list[Program]] = {}
    section: str | None = None
    for line in lines:
        try:
            if b"\0" in line:
                raise ValueError("has a NUL")
            if line.startswith(b"["):
                section = _LETTERS.get(line[1:2])
            elif section is None:
                raise ValueError(f"stands in no section, which are {', '.join(SECTIONS)}")
            elif not line.removeprefix(b":").strip(b" \t"):
                raise ValueError("names no program")
            elif sum(map(len, found.values())) == PLUGINS_LIMIT:
                raise ValueError(f"is one more than {PLUGINS_LIMIT}")
            else:
                found.setdefault(section, []).append(Program(line))
        except ValueError as error:
            raise ControlError(where, f"{shown(line)} {error}") from error
    return found
