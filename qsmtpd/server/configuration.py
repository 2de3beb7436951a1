"""What every process that serves takes along."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.files import ControlFiles
    from .options import Options
    from .rules import Rules


class Preloaded:
    """What was read, imported and built at the start, or on HUP (see warmup.py).

    `external_plugins`: may a session have plugins that did not come with this
    program?  `problems` are sentences about what is wrong.  `serves`: is there
    anything but 421 for a client?  `expires` says when the first of the
    certificates does, and `read` when all this was read.
    """

    __slots__ = ("files", "external_plugins", "problems", "serves", "expires", "read")

    def __init__(self, files: ControlFiles, read: str) -> None:
        self.files = files
        self.external_plugins = True
        self.problems: list[str] = []
        self.serves = False
        self.expires: str | None = None
        self.read = read


class Configuration:
    """The command line, the rules, and what was read and built beforehand.

    `environ` is the environment of every connection, before what is its own.
    A HUP makes a new Configuration, with the same options and rules.
    """

    __slots__ = ("options", "environ", "rules", "files", "external_plugins", "preloaded")

    def __init__(
        self,
        options: Options,
        environ: Mapping[bytes, bytes],
        rules: Rules | None,
        preloaded: Preloaded,
    ) -> None:
        self.options = options
        self.environ = environ
        self.rules = rules
        self.preloaded = preloaded
        self.files = preloaded.files
        self.external_plugins = preloaded.external_plugins

    def worse_than(self, other: Configuration) -> list[str]:
        """What is wrong here and is not there.  Nothing is worse than to serve nobody."""
        if not other.preloaded.serves:
            return []
        known = other.preloaded.problems
        return [problem for problem in self.preloaded.problems if problem not in known]
