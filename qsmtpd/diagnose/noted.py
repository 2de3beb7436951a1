"""The lookup of settings that `qsmtpd --check` has: it takes notes, and carries on."""

from __future__ import annotations

import os

from ..config.settings import Options, PluginSettings, Settings
from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from ..config.files import ControlFiles
    from ..log import Log
    from .report import Report

    T = TypeVar("T")


class _Noted(Settings):
    """A lookup that reports each answer, and answers with the default where it would raise."""

    report: Report

    def variable(self, name: str) -> bytes | None:
        value = super().variable(name)
        if value is not None:
            self.report.ok(name, os.fsdecode(value), "environment")
        return value

    def line(self, file: str | None, variable: str | None = None) -> bytes | None:
        read = super().line
        return self._noted(file, variable, None, lambda: read(file, variable))

    def number(self, file: str | None, variable: str | None, default: int, least: int = 0) -> int:
        read = super().number
        return self._noted(file, variable, default, lambda: read(file, variable, default, least))

    def choice(self, file: str | None, variable: str | None, choices: tuple[str, ...]) -> str:
        read = super().choice
        return self._noted(file, variable, choices[0], lambda: read(file, variable, choices))

    def lines(self, file: str) -> list[bytes] | None:
        try:
            entries = super().lines(file)
        except ControlError as error:
            self.report.wrong(error.name, error.reason)
            return None
        if entries is not None:
            self.report.ok(
                file,
                f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}",
                "control/" + file,
            )
            self._look_for_cr(file)
        return entries

    def _noted(
        self, file: str | None, variable: str | None, default: T, read: Callable[[], T]
    ) -> T:
        name = file or variable or ""
        try:
            found = self.text(file, variable)
            value = read()
        except ControlError as error:
            self.report.wrong(error.name, error.reason)
            return default
        if found is not None and file is not None and found[0] != variable:
            self._look_for_cr(file)
        source = "default" if found is None else found[0]
        shown = value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value
        if value is not None:
            self.report.ok(name, str(shown), source)
        return value

    def _look_for_cr(self, file: str) -> None:
        if b"\r" in (self.files.read(file) or b""):
            self.report.warn("control/" + file, "has a CR, which counts as part of its line")


class NotedSettings(_Noted):
    """The lookup of --check."""

    def __init__(
        self, files: ControlFiles, variables: Mapping[bytes, bytes], report: Report
    ) -> None:
        super().__init__(files, variables)
        self.report = report

    def for_plugin(
        self, plugin: str, options: Mapping[bytes, bytes], log: Log
    ) -> NotedPluginSettings:
        own = NotedPluginSettings(self.files, self._variables, Options(plugin, options), log)
        own.report = self.report
        return own


class NotedPluginSettings(_Noted, PluginSettings):
    """The same for a plugin."""
