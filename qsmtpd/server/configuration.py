"""What every process that serves takes along."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.files import ControlFiles
    from .options import Options
    from .rules import Rules


class Configuration:
    """The command line, the rules, and the control files that have been read.

    `environ` is the environment of every connection, before what is its own.
    `external_plugins`: may a session have plugins that did not come with this
    program?  A HUP makes a new Configuration, with the same options and rules.
    """

    __slots__ = ("options", "environ", "rules", "files", "external_plugins")

    def __init__(
        self,
        options: Options,
        environ: Mapping[bytes, bytes],
        rules: Rules | None,
        files: ControlFiles,
        external_plugins: bool,
    ) -> None:
        self.options = options
        self.environ = environ
        self.rules = rules
        self.files = files
        self.external_plugins = external_plugins
