"""The lookup of settings that `qsmtpd --check` has: it takes notes, and carries on."""

from __future__ import annotations

import os

from ..config.settings import PluginSettings, Settings
from ..facts import BLANKS, ControlError
from . import entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from ..config.cdb import Cdb
    from ..config.files import ControlFiles
    from ..log import Log
    from .report import Report

    T = TypeVar("T")

WHITE_SPACE = "ends in white space, which is not part of it"
#: How many faults of a kind are said of one file.
SAID_LIMIT = 10
#: Settings that are not to be read by others; of an address, its password is not shown.
_SECRETS = ("storekey",)
#: Lists of what is looked for in messages: an empty one finds nothing, though its filter is on.
LOOKED_FOR = ("badattachments", "badheaders", "badloadertypes", "badmimetypes")


class _Noted(Settings):
    """A lookup that reports each answer, and answers with the default where it would raise."""

    report: Report

    def variable(self, name: str) -> bytes | None:
        value = super().variable(name)
        if value is not None:
            self.report.ok(name, os.fsdecode(value), "environment")
        return value

    def _variable(self, name: str) -> bytes | None:
        value = super()._variable(name)
        if value is not None and value != self._variables[name.encode("ascii")]:
            self.report.warn(name, WHITE_SPACE)
        return value

    def line(self, file: str | None, variable: str | None = None) -> bytes | None:
        read = super().line
        return self._noted(file, variable, None, lambda: read(file, variable))

    def number(
        self,
        file: str | None,
        variable: str | None,
        default: int,
        least: int = 0,
        most: int | None = None,
        empty: int | None = None,
    ) -> int:
        read = super().number
        rest = (default, least, most, empty)
        return self._noted(file, variable, default, lambda: read(file, variable, *rest))

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
            name = self.list_file(file)
            self.report.ok(file, _count(len(entries), "entry", "entries"), "control/" + name)
            self._look_at_entries(file, name)
            if not entries and file == "recipients":
                self._refuses_all("control/" + name, "entry")
            elif not entries and file in LOOKED_FOR:
                self.report.warn("control/" + name, "has no entry, so nothing is looked for")
        return entries

    def cdb(self, file: str) -> Cdb | None:
        try:
            cdb = super().cdb(file)
        except ControlError as error:
            self.report.wrong(error.name, error.reason)
            return None
        if cdb is not None:
            self._look_at_keys(cdb, file, "control/" + file)
        return cdb

    def expect_cdb(self, where: str, path: bytes) -> None:
        try:
            cdb = super().cdb_at(where, path)
        except ControlError as error:
            self.report.wrong(error.name, error.reason)
        else:
            name = path.decode("ascii", "backslashreplace")
            self._look_at_keys(cdb, where.removeprefix("control/"), f"{where}: {name}")

    def expect_program(self, where: str, path: bytes) -> None:
        """Nothing: programs.py says more of it."""

    def optional(self, read: Callable[[], T], default: T, wrong: list[ControlError]) -> T:
        with self.report.mildly():
            return super().optional(read, default, wrong)

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
        if found is not None and file is not None and found[0] == "control/" + file:
            line = (self.files.read(file) or b"").partition(b"\n")[0]
            if line != found[1]:
                self.report.warn(found[0], f"line 1 {WHITE_SPACE}")
        source = "default" if found is None else found[0]
        shown = _shown(name, value) if isinstance(value, bytes) else value
        if value is not None:
            self.report.ok(name, str(shown), source)
        return value

    def _refuses_all(self, where: str, what: str) -> None:
        """A list of recipients is empty: only who may relay is not asked."""
        if self._variables.get(b"RELAYCLIENT") is None:
            self.report.wrong(where, f"has no {what}, so every recipient is refused")

    def _look_at_entries(self, file: str, name: str) -> None:
        """Say what is wrong with the entries of a list, of which `name` is the control file."""
        where = "control/" + name
        problems, white = [], []
        for number, line in enumerate((self.files.read(name) or b"").split(b"\n"), 1):
            entry = line.rstrip(BLANKS)
            if not entry or entry.startswith(b"#"):
                continue
            if entry != line:
                white.append(f"line {number} {WHITE_SPACE}")
            said = entries.problem(file, number, entry)
            if said is not None:
                problems.append(f"line {number}: {said}")
        _say(self.report.warn, where, white)
        _say(self.report.wrong, where, problems)

    def _look_at_keys(self, cdb: Cdb, file: str, where: str) -> None:
        """Read all of a cdb, and say what is wrong with its keys."""
        number, problems = 0, []
        try:
            for key, _ in cdb.items():
                number += 1
                said = entries.key_problem(file, key)
                if said is not None:
                    problems.append(said)
        except ControlError as error:
            self.report.wrong(error.name, error.reason)
        else:
            self.report.ok(where.removeprefix("control/"), _count(number, "key", "keys"), where)
            if not number and file in entries.RECIPIENTS:
                self._refuses_all(where, "key")
            elif not number and file.removesuffix(".cdb") in LOOKED_FOR:
                self.report.warn(where, "has no key, so nothing is looked for")
        _say(self.report.wrong, where, problems)


def _shown(name: str, value: bytes) -> str:
    """A setting, without what is secret in it."""
    if name in _SECRETS:
        return "..."
    text = value.decode("ascii", "backslashreplace")
    given, at, place = text.rpartition("@")
    if not at or not (":" in given or given.startswith(("redis", "valkey"))):
        return text
    scheme, slashes, words = given.partition("://")
    user, colon, _ = words.partition(":")
    return f"{scheme}://{user}:...@{place}" if slashes and colon else f"...@{place}"


def _say(say: Callable[[str, str], None], where: str, said: list[str]) -> None:
    """Say all of this of one file, or how much more there is."""
    for text in said[:SAID_LIMIT]:
        say(where, text)
    if len(said) > SAID_LIMIT:
        say(where, f"and {len(said) - SAID_LIMIT} more like these")


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


class NotedSettings(_Noted):
    """The lookup of --check."""

    def __init__(
        self, files: ControlFiles, variables: Mapping[bytes, bytes], report: Report
    ) -> None:
        super().__init__(files, variables)
        self.report = report

    def for_plugin(
        self,
        plugin: str,
        options: Mapping[bytes, bytes],
        log: Log,
        environ: Mapping[bytes, bytes] | None = None,
    ) -> NotedPluginSettings:
        own = NotedPluginSettings(self.files, self._variables, plugin, options, log)
        own.report = self.report
        return own


class NotedPluginSettings(_Noted, PluginSettings):
    """The same for a plugin."""

    def without_options(self) -> NotedSettings:
        return NotedSettings(self.files, self._variables, self.report)
