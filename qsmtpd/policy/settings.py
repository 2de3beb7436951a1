"""Settings as one plugin sees them: with the options of its own line."""

from __future__ import annotations

from ..control import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..log import Log


class PluginSettings(Settings):
    """Settings with `options`, which stand between the variable and the file.

    The option of a setting has the name of its file, or of its variable in
    lower case where it has no file.
    """

    __slots__ = ("name", "unused", "_options", "_log", "_base")

    def __init__(
        self, name: str, base: Settings, options: Mapping[bytes, bytes], log: Log | None = None
    ) -> None:
        super().__init__(base.controls, base.environ)
        self.name = name
        #: The options that nobody has asked for.
        self.unused = set(options)
        self._options = options
        self._log = log
        self._base = base

    def option(self, name: str) -> bytes | None:
        """The value of an option of the plugin's line in control/plugins, or None."""
        key = name.encode("ascii")
        self.unused.discard(key)
        return self._options.get(key)

    def text(self, file: str | None, variable: str | None) -> tuple[str, bytes] | None:
        given = self.option(file or (variable or "").lower())
        if given is None or (variable is not None and variable.encode("ascii") in self.environ):
            return super().text(file, variable)
        return f"{self.name} in control/plugins", given

    def lines(self, file: str) -> list[bytes] | None:
        """The entries of a list file; an option of its name says which other file it is."""
        given = self.option(file)
        return self._base.lines(file if given is None else given.decode("ascii", "replace"))

    def log(self, **fields: bytes | str | int | None) -> None:
        """A line `event=plugin plugin=NAME …` in the log; see qsmtpd(8) for how it is quoted."""
        if self._log is not None:
            self._log.line("plugin", plugin=self.name, **fields)
