"""What `qsmtpd --check` has found: settings, warnings, and what keeps mail from flowing."""

from __future__ import annotations

import os

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


class Report:
    """Collects lines, and whether mail would flow; what is wrong is printed last."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {"ok": [], "warning": [], "wrong": []}

    def ok(self, what: str, value: str, source: str) -> None:
        """A setting that is what it should be."""
        line = f"{what} = {value} ({source})"
        if line not in self._lines["ok"]:  # several parts may have asked for the same
            self._lines["ok"].append(line)

    def warn(self, what: str, problem: str) -> None:
        """Something that is probably not what was meant."""
        self._lines["warning"].append(f"{what}: {problem}")

    def wrong(self, what: str, problem: str) -> None:
        """Something that keeps mail from flowing."""
        line = f"{what}: {problem}"
        if line not in self._lines["wrong"]:  # as above
            self._lines["wrong"].append(line)

    def attempt(self, check: Callable[[], T]) -> T | None:
        """Do one part of the check; what it raises is wrong, and the rest goes on."""
        try:
            return check()
        except ControlError as error:
            self.wrong(error.name, error.reason)
        except MemoryError:
            self.wrong("memory", "is not enough for this check, nor for a session")
        except Exception as error:
            self.wrong(type(error).__name__, str(error))
        return None

    def print(self) -> int:
        """Print it all; 0 if mail would flow, else 1."""
        for kind, lines in self._lines.items():
            for line in lines:
                os.write(1, f"{kind}: {line}\n".encode("ascii", "backslashreplace"))
        return 1 if self._lines["wrong"] else 0
