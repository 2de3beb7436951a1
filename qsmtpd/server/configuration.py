"""What every process that serves takes along."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.files import Controls
    from .options import Options
    from .rules import Rules


class Configuration:
    """The command line, the rules, and the control files that have been read.

    `environ` is the environment of every connection, before what is its own.
    A HUP makes a new Configuration, with the same options and rules.
    """

    __slots__ = ("options", "environ", "rules", "controls")

    def __init__(
        self,
        options: Options,
        environ: Mapping[bytes, bytes],
        rules: Rules | None,
        controls: Controls,
    ) -> None:
        self.options = options
        self.environ = environ
        self.rules = rules
        self.controls = controls
