"""The lookup of settings: a variable, else an option of a plugin's line, else a control file.

A setting is declared where it is used, by asking for it:

    settings.number("databytes", "DATABYTES", 0)

so `qsmtpd --check` finds every setting by building the same objects as a
session does, with a lookup that takes notes (diagnose/check.py).  No code
outside of this package takes a setting from the environment by hand.
"""

from __future__ import annotations

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..log import Log
    from .files import ControlFiles

LINE_LIMIT = 1000  # bytes of a text setting
#: The maximum of what REPLY_… adds to a reply (bytes), so that no reply grows
#: beyond what RFC 5321, 4.5.3.1.5 allows.
EXTRA_TEXT_LIMIT = 300
BLANKS = b" \t\n"
_NOTHING: dict[bytes, bytes] = {}


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

    def for_plugin(self, plugin: str, options: Mapping[bytes, bytes], log: Log) -> PluginSettings:
        """The same lookup as a plugin has it, with the options of its line and with a log."""
        return PluginSettings(self.files, self._variables, Options(plugin, options), log)

    def variable(self, name: str) -> bytes | None:
        """The value of a variable, as it is."""
        return self._variables.get(name.encode("ascii"))

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

        Of a file the first line counts, without blanks at its end (qmail-control).
        """
        given = self._option(file, variable)  # first: then it has been asked for
        if variable is not None:
            value = self._variables.get(variable.encode("ascii"))
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
        return value

    def number(self, file: str | None, variable: str | None, default: int, least: int = 0) -> int:
        """A number of at most 20 digits; one below `least` counts as `least`."""
        found = self.text(file, variable)
        if found is None:
            return default
        where, value = found
        # int() would take "1_000", " +5 " and digits of other scripts.
        if not (0 < len(value) <= 20 and value.isdigit()):
            raise ControlError(where, "is not a number")
        return max(least, int(value))

    def choice(self, file: str | None, variable: str | None, choices: tuple[str, ...]) -> str:
        """One of these words; the first of them is the default."""
        found = self.text(file, variable)
        if found is None:
            return choices[0]
        where, value = found
        for word in choices:
            if value == word.encode("ascii"):
                return word
        raise ControlError(where, "is none of " + ", ".join(choices))

    def lines(self, file: str) -> list[bytes] | None:
        """The entries of a list file, or None where there is none.

        Blanks at line ends, empty lines and lines that begin with # do not
        count.  A CR is part of its line, as in qmail.
        """
        content = self.files.read(file)
        if content is None:
            return None
        entries = [line.rstrip(BLANKS) for line in content.split(b"\n")]
        return [entry for entry in entries if entry and not entry.startswith(b"#")]

    def worded(self, text: bytes, variable: str) -> bytes:
        """A reply's text, with what one of SPAMCONTROL's REPLY_ variables adds behind it."""
        extra = self.line(None, variable)
        if not extra:
            return text
        if len(extra) > EXTRA_TEXT_LIMIT or not all(32 <= byte < 127 for byte in extra):
            what = f"is no text of at most {EXTRA_TEXT_LIMIT} printable characters"
            raise ControlError(variable, what)
        return text + b" " + extra

    def _option(self, file: str | None, variable: str | None) -> tuple[str, bytes] | None:
        """What a line of control/plugins says of a setting: only plugins have such lines."""
        return None


class Options:
    """The options of a plugin's line in control/plugins; `unused` are those not asked for yet."""

    __slots__ = ("plugin", "unused", "_given")

    def __init__(self, plugin: str, given: Mapping[bytes, bytes] = _NOTHING) -> None:
        self.plugin = plugin
        self.unused = set(given)
        self._given = given

    def get(self, name: str) -> bytes | None:
        """The value of an option, or None."""
        key = name.encode("ascii")
        self.unused.discard(key)
        return self._given.get(key)


class PluginSettings(Settings):
    """What a plugin is given: the lookup with its options in it, and its log.

    The option of a setting has the name of its file, or that of its variable
    in lower case where it has no file; it stands between variable and file.
    """

    __slots__ = ("options", "_log")

    def __init__(
        self,
        files: ControlFiles,
        variables: Mapping[bytes, bytes],
        options: Options,
        log: Log,
    ) -> None:
        super().__init__(files, variables)
        self.options = options
        self._log = log

    @property
    def environ(self) -> Mapping[bytes, bytes]:
        """The environment of the connection: the process's own may be the server's."""
        return self._variables

    def option(self, name: str) -> bytes | None:
        """The value of an option of the plugin's line, or None."""
        return self.options.get(name)

    def log(self, **fields: bytes | str | int | None) -> None:
        """A line `event=plugin plugin=NAME …` in the log, quoted as in qsmtpd(8)."""
        taken = {"event", "pid", "ip", "plugin", "dropped"} & set(fields)
        if taken:
            raise ValueError(f"{min(taken)} is on the line already")
        self._log.line("plugin", plugin=self.options.plugin, **fields)

    def raw_log(self, line: bytes) -> None:
        """A whole line in a form of its own.  What is in it, is for the plugin to quote."""
        self._log.raw(line)

    def lines(self, file: str) -> list[bytes] | None:
        """As of every lookup; an option of that name says which other control file it is."""
        given = self.options.get(file)
        if given is None:
            return super().lines(file)
        other = given.decode("ascii", "backslashreplace")
        found = super().lines(other)
        if found is None:
            what = f"is missing, and {self.options.plugin} wants it"
            raise ControlError("control/" + other, what)
        return found

    def _option(self, file: str | None, variable: str | None) -> tuple[str, bytes] | None:
        name = file or (variable or "").lower()
        value = self.options.get(name)
        return None if value is None else (f"control/plugins: {self.options.plugin} {name}=", value)
