"""What `qsmtpd --check` has found: settings, warnings, and what keeps mail from flowing."""

from __future__ import annotations

import os
from contextlib import contextmanager

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")


OK, WARNING, WRONG = KINDS = ("ok", "warning", "wrong")
DEFAULT = "default"
#: How long who is asked by a check may take to answer (seconds): a machine may stand still.
PATIENCE = 10.0


class Report:
    """Collects lines, and whether mail would flow; what is wrong is printed last.

    `quiet`: what is ok and the default, or no setting at all, is left out.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        #: Each line once, since several parts may ask for the same; in their order.
        self.lines: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
        self._mild = False

    def ok(self, what: str, value: str, source: str) -> None:
        """A setting that is what it should be; `source` says where it is from."""
        if not (self._quiet and source == DEFAULT):
            self._add(OK, f"{what} = {value} ({source})")

    def note(self, what: str, value: str, source: str) -> None:
        """What is ok, and not said by a setting."""
        if not self._quiet:
            self._add(OK, f"{what} = {value} ({source})")

    def warn(self, what: str, problem: str) -> None:
        """Something that is probably not what was meant."""
        self._add(WARNING, f"{what}: {problem}")

    def wrong(self, what: str, problem: str) -> None:
        """Something that keeps mail from flowing."""
        self._add(WARNING if self._mild else WRONG, f"{what}: {problem}")

    def add_others(self, other: Report, where: str) -> None:
        """What another report says and this one does not, with `where` before it."""
        for kind in KINDS:
            for line in other.lines[kind]:
                if line not in self.lines[kind]:
                    self._add(kind, f"{where}: {line}")

    def _add(self, kind: str, line: str) -> None:
        self.lines[kind][line] = None

    @contextmanager
    def mildly(self) -> Iterator[None]:
        """While it lasts, what is wrong is a warning: plain mail flows all the same."""
        self._mild = True
        try:
            yield
        finally:
            self._mild = False

    def attempt(self, check: Callable[[], T]) -> T | None:
        """Do one part of the check; what it raises is wrong, and the rest goes on."""
        try:
            return check()
        except ControlError as error:
            self.wrong(error.name, error.reason)
        except MemoryError:
            self.wrong("memory", "is not enough for this check; a session can do with less")
        except Exception as error:
            self.wrong(type(error).__name__, str(error))
        return None

    def print(self) -> int:
        """Print it all; 0 if nothing is wrong, else 1."""
        for kind, lines in self.lines.items():
            for line in lines:
                text = f"{kind}: {_one_line(line)}\n".encode("ascii", "backslashreplace")
                try:
                    os.write(1, text)
                except OSError:  # whoever reads it has seen enough
                    return 1
        return 1 if self.lines[WRONG] else 0


def _one_line(text: str) -> str:
    """A value can hold any byte; it can say neither two lines nor what looks like another."""
    return "".join(c if " " <= c != "\x7f" else f"\\x{ord(c):02x}" for c in text)
