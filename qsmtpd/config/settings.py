"""Control files, and the settings that they and the environment make.

Controls are the files of one QMAILHOME, each read at most once.  Settings are
what holds for one connection: a variable of the environment, which tcpserver's
rules can set for each client, overrides the file of the same setting.

A setting is declared where it is used, by asking for it:

    settings.number("databytes", "DATABYTES", 0)

so `qsmtpd --check` finds every setting by building the same objects as a
session does, with a Settings that takes notes (see qsmtpd.diagnose.check).
"""

from __future__ import annotations

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..log import Log
    from .files import Controls

LINE_LIMIT = 1000  # bytes of a text setting
BLANKS = b" \t\n"
_NOTHING: dict[bytes, bytes] = {}


class Settings:
    """The settings of one connection.  Every method raises ControlError.

    A method is told the control file and the variable of its setting; either
    may be None where there is none.

    A plugin is given settings of its own (see of_plugin), in which the options
    of its line in control/plugins stand between the variable and the file.  The
    option of a setting has the name of its file, or that of its variable in
    lower case where it has no file.
    """

    __slots__ = ("controls", "environ", "plugin", "unused", "_options", "_log")

    def __init__(
        self,
        controls: Controls,
        environ: Mapping[bytes, bytes],
        plugin: str = "",
        options: Mapping[bytes, bytes] = _NOTHING,
        log: Log | None = None,
    ) -> None:
        self.controls = controls
        self.environ = environ
        self.plugin = plugin  # whose settings these are
        self.unused = set(options)  # the options that nobody has asked for yet
        self._options = options
        self._log = log

    def of_plugin(self, name: str, options: Mapping[bytes, bytes], log: Log) -> Settings:
        """The same as this plugin sees them."""
        return Settings(self.controls, self.environ, name, options, log)

    def option(self, name: str) -> bytes | None:
        """The value of an option of the plugin's line, or None."""
        key = name.encode("ascii")
        self.unused.discard(key)
        return self._options.get(key)

    def log(self, **fields: bytes | str | int | None) -> None:
        """For plugins: a line `event=plugin plugin=NAME …` in the log, quoted as in qsmtpd(8)."""
        if self._log is not None:
            taken = {"event", "pid", "ip", "plugin", "dropped"} & set(fields)
            if taken:
                raise ValueError(f"{min(taken)} is on the line already")
            self._log.line("plugin", plugin=self.plugin, **fields)

    def raw_log(self, line: bytes) -> None:
        """For plugins: a whole line in a form of its own.  What is in it, is for them to quote."""
        if self._log is not None:
            self._log.raw(line)

    def text(self, file: str | None, variable: str | None) -> tuple[str, bytes] | None:
        """(where it is from, its text), or None where it is not set.

        Of a file the first line counts, without blanks at its end (qmail-control).
        """
        given = self.option(file or (variable or "").lower()) if self._options else None
        if variable is not None:
            value = self.environ.get(variable.encode("ascii"))
            if value is not None:
                return variable, value
        if given is not None:
            return f"control/plugins: {self.plugin} {file or (variable or '').lower()}=", given
        if file is not None:
            content = self.controls.read(file)
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
        count.  A CR is part of its line, as in qmail.  A plugin's option of
        that name says which other control file it is.
        """
        given = self.option(file) if self._options else None
        if given is not None:
            file = given.decode("ascii", "backslashreplace")
        content = self.controls.read(file)
        if content is None:
            if given is not None:
                raise ControlError("control/" + file, f"is missing, and {self.plugin} wants it")
            return None
        entries = [line.rstrip(BLANKS) for line in content.split(b"\n")]
        return [entry for entry in entries if entry and not entry.startswith(b"#")]
