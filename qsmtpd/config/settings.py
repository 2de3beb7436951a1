"""The lookup of settings: a variable, else an option of a plugin's line, else a control file.

A setting is declared where it is used, by asking for it:

    settings.number("databytes", "DATABYTES", 0)

so `qsmtpd --check` finds every setting by building the same objects as a
session does, with a lookup that takes notes (diagnose/check.py).  No code
outside of this package takes a setting from the environment by hand.
"""

from __future__ import annotations

import posix as os

from ..facts import BLANKS, ControlError
from .files import open_regular, read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from ..log import Log
    from .cdb import Cdb
    from .files import ControlFiles

    T = TypeVar("T")

LINE_LIMIT = 1000  # bytes of a text setting
#: The maximum of what REPLY_… adds to a reply (bytes), so that no reply grows
#: beyond what RFC 5321, 4.5.3.1.5 allows.
EXTRA_TEXT_LIMIT = 300
SHOWN_LIMIT = 40  # bytes of a wrong value that are shown
MISSING = "No such file or directory"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Settings:
    """The lookup.  Every method raises ControlError for what cannot be used.

    A method is told the control file and the variable of its setting; either
    may be None where there is none.  `variables` are those of the environment,
    with what the UCSPI server's rules have set.
    """

    __slots__ = ("files", "_variables")

    def __init__(self, files: ControlFiles, variables: Mapping[bytes, bytes]) -> None:
        self.files = files
        self._variables = variables

    @property
    def environ(self) -> Mapping[bytes, bytes]:
        """All variables; a plugin from elsewhere is given those of the connection."""
        return self._variables

    def for_plugin(
        self,
        plugin: str,
        options: Mapping[bytes, bytes],
        log: Log,
        environ: Mapping[bytes, bytes] | None = None,
    ) -> PluginSettings:
        """The same lookup as a plugin has it, with the options of its line and with a log.

        `environ` is that of a connection; without it, what this has.
        """
        variables = self._variables if environ is None else environ
        return PluginSettings(self.files, variables, plugin, options, log)

    def without_options(self) -> Settings:
        """The lookup of what all plugins of a session share: options of a line do not count."""
        return self

    def variable(self, name: str) -> bytes | None:
        """The value of a variable, without blanks at its end."""
        return self._variable(name)

    def is_set(self, variable: str) -> bool:
        """Is there a variable of this name?"""
        return variable.encode("ascii") in self._variables

    def variables_like(self, prefix: str) -> list[str]:
        """The names of the variables that begin so, sorted."""
        start = prefix.encode("ascii")
        names = [name for name in self._variables if name.startswith(start)]
        return sorted(name.decode("ascii", "backslashreplace") for name in names)

    def flag(self, variable: str) -> bool:
        """Is a variable set, and not `0`?"""
        return self.variable(variable) not in (None, b"0")

    def text(self, file: str | None, variable: str | None) -> tuple[str, bytes] | None:
        """(where it is from, its text), or None where it is not set.

        Of a file the first line counts (qmail-control); of everything, what
        stands before the blanks at its end.
        """
        given = self._option(file, variable)  # first: then it has been asked for
        if variable is not None:
            value = self._variable(variable)
            if value is not None:
                return variable, value
        if given is not None:
            return given
        if file is not None:
            content = self.files.read(file)
            if content is not None:
                return "control/" + file, content.partition(b"\n")[0].rstrip(BLANKS)
        return None

    def line(self, file: str | None, variable: str | None = None) -> bytes | None:
        """A line of text without control characters, or None."""
        found = self.text(file, variable)
        if found is None:
            return None
        where, value = found
        if len(value) > LINE_LIMIT:
            raise ControlError(where, "is too long")
        if any(byte < 32 or byte == 127 for byte in value):
            raise ControlError(where, "has a control character")
        if value.startswith(BYTE_ORDER_MARK):
            raise ControlError(where, "begins with a byte-order mark")
        return value

    def number(
        self,
        file: str | None,
        variable: str | None,
        default: int,
        least: int = 0,
        most: int | None = None,
        empty: int | None = None,
    ) -> int:
        """A number of 1 to 20 digits, from `least` to `most`; `empty` is what none at all means."""
        found = self.text(file, variable)
        if found is None:
            return default
        where, value = found
        if not value and empty is not None:
            return empty
        return number(where, value, least, most)

    def choice(self, file: str | None, variable: str | None, choices: tuple[str, ...]) -> str:
        """One of these words; the first of them is the default."""
        found = self.text(file, variable)
        if found is None:
            return choices[0]
        where, value = found
        for word in choices:
            if value == word.encode("ascii"):
                return word
        raise ControlError(where, f"is {shown(value)}, none of " + ", ".join(choices))

    def lines(self, file: str) -> list[bytes] | None:
        """The entries of a list file, or None where there is none.

        Blanks at line ends, among them a CR, empty lines and lines that begin
        with # do not count.
        """
        content = self.files.read(self.list_file(file))
        if content is None:
            return None
        return _entries(content)

    def lines_at(self, where: str, path: bytes) -> list[bytes]:
        """The entries of a list elsewhere, relative to QMAILHOME; `where` names its path."""
        full, name = self._elsewhere(where, path)
        content = read_regular(name, full)
        if content is None:
            raise ControlError(name, MISSING)
        return _entries(content)

    def bad_entry(self, file: str, entry: bytes, what: str) -> ControlError:
        """The error of an entry of a list: with its line, and with what is wrong with it.

        A filter may have taken a mark of one byte from the end of it.
        """
        name = self.list_file(file)
        for number, line in enumerate((self.files.read(name) or b"").split(b"\n"), 1):
            line = line.rstrip(BLANKS)
            if entry in (line, line[:-1]):
                return ControlError("control/" + name, f"line {number}: {shown(line)} {what}")
        return ControlError("control/" + name, f"{shown(entry)} {what}")

    def cdb(self, file: str) -> Cdb | None:
        """The cdb of this control file, open, or None where there is none."""
        return self.files.cdb(file)

    def cdb_at(self, where: str, path: bytes) -> Cdb:
        """The cdb of this path, open; it is relative to QMAILHOME, and `where` names it."""
        full, name = self._elsewhere(where, path)
        cdb = self.files.cdb_at(name, full)
        if cdb is None:
            raise ControlError(name, MISSING)
        return cdb

    def expect_cdb(self, where: str, path: bytes) -> None:
        """Make sure that there is such a file; whether it is a cdb is seen when it is used."""
        full, name = self._elsewhere(where, path)
        fd = open_regular(name, full)
        if fd is None:
            raise ControlError(name, MISSING)
        os.close(fd)

    def expect_program(self, where: str, path: bytes) -> None:
        """Make sure that there is such a program."""
        full, name = self._elsewhere(where, path)
        try:
            os.stat(full)
        except OSError as error:
            raise ControlError(name, error.strerror or "unreadable") from error

    def optional(self, read: Callable[[], T], default: T, wrong: list[ControlError]) -> T:
        """What read() says, or the default where it raises ControlError: that is then in `wrong`.

        For settings that only take something away where they cannot be used.
        """
        try:
            return read()
        except ControlError as error:
            wrong.append(error)
            return default

    def worded(self, text: bytes, variable: str) -> bytes:
        """A reply's text, with what one of SPAMCONTROL's REPLY_ variables adds behind it."""
        extra = self.line(None, variable)
        if not extra:
            return text
        if len(extra) > EXTRA_TEXT_LIMIT or not all(32 <= byte < 127 for byte in extra):
            what = f"is no text of at most {EXTRA_TEXT_LIMIT} printable characters"
            raise ControlError(variable, what)
        return text + b" " + extra

    def list_file(self, file: str) -> str:
        """The control file in which the list of this name is."""
        return file

    def _elsewhere(self, where: str, path: bytes) -> tuple[bytes, str]:
        """(a path that is relative to QMAILHOME, in full; what errors call it)"""
        home = b"" if path.startswith(b"/") else self.files.home + b"/"
        return home + path, f"{where}: {path.decode('ascii', 'backslashreplace')}"

    def _variable(self, name: str) -> bytes | None:
        value = self._variables.get(name.encode("ascii"))
        return None if value is None else value.rstrip(BLANKS)

    def _option(self, file: str | None, variable: str | None) -> tuple[str, bytes] | None:
        """What a line of control/plugins says of a setting: only plugins have such lines."""
        return None


class PluginSettings(Settings):
    """What a plugin is given: the lookup with its options in it, and its log.

    The option of a setting has the name of its file, or that of its variable
    in lower case where it has no file; it stands between variable and file.
    """

    __slots__ = ("plugin", "unused", "_options", "_log")

    def __init__(
        self,
        files: ControlFiles,
        variables: Mapping[bytes, bytes],
        plugin: str,
        options: Mapping[bytes, bytes],
        log: Log,
    ) -> None:
        super().__init__(files, variables)
        self.plugin = plugin
        self.unused = set(options)  # those not asked for yet
        self._options = options
        self._log = log

    def without_options(self) -> Settings:
        """As of every lookup."""
        return Settings(self.files, self._variables)

    def option(self, name: str) -> bytes | None:
        """The value of an option of the plugin's line, or None."""
        key = name.encode("ascii")
        self.unused.discard(key)
        return self._options.get(key)

    def log(self, **fields: bytes | str | int | None) -> None:
        """A line `event=plugin plugin=NAME …` in the log, quoted as in qsmtpd(8)."""
        taken = {"event", "pid", "ip", "plugin", "dropped"} & set(fields)
        if taken:
            raise ValueError(f"{min(taken)} is on the line already")
        self._log.line("plugin", plugin=self.plugin, **fields)

    def raw_log(self, line: bytes) -> None:
        """A whole line in a form of its own.  What is in it, is for the plugin to quote."""
        self._log.raw(line)

    def lines(self, file: str) -> list[bytes] | None:
        """As of every lookup; a file that an option names has to be there."""
        found = super().lines(file)
        if found is None and (other := self.list_file(file)) != file:
            what = f"is missing, and {self.plugin} wants it"
            raise ControlError("control/" + other, what)
        return found

    def list_file(self, file: str) -> str:
        """An option of that name says which other control file it is."""
        given = self.option(file)
        return file if given is None else given.decode("ascii", "backslashreplace")

    def _option(self, file: str | None, variable: str | None) -> tuple[str, bytes] | None:
        name = file or (variable or "").lower()
        value = self.option(name)
        return None if value is None else (f"control/plugins: {self.plugin} {name}=", value)


def _entries(content: bytes) -> list[bytes]:
    entries = [line.rstrip(BLANKS) for line in content.split(b"\n")]
    return [entry for entry in entries if entry and not entry.startswith(b"#")]


def number(where: str, text: bytes, least: int, most: int | None) -> int:
    """A number of 1 to 20 digits, from `least` to `most`.  Raises ControlError."""
    # int() would take "1_000", " +5 " and digits of other scripts.
    if not (0 < len(text) <= 20 and text.isdigit()):
        raise ControlError(where, f"is {shown(text)}, which is not a number")
    found = int(text)
    if found < least:
        raise ControlError(where, f"is {shown(text)}, less than {least}")
    if most is not None and found > most:
        raise ControlError(where, f"is {shown(text)}, more than {most}")
    return found


def shown(value: bytes) -> str:
    """A value as errors show it."""
    text = "".join(chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in value[:SHOWN_LIMIT])
    return f"'{text}{'' if len(value) <= SHOWN_LIMIT else '...'}'"
