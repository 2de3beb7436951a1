"""The plugins that come with the program: their order, and what switches each on."""

from __future__ import annotations

import posix as os

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.settings import Settings

#: name -> (control files, variables): it is on when one of them is there.  The
#: cheap ones come first, and what only makes sense for a recipient that is
#: taken at all comes behind rcpthosts.
BUILT_IN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "karma": ((), ("KARMALIMIT",)),
    "greetdelay": (("greetdelay",), ("SMTPD_GREETDELAY", "GREETDELAY")),
    "rblsmtpd": ((), ("RBLSMTPD",)),
    "helocheck": (("badhelo",), ("HELOCHECK",)),
    "badmailfrom": (("badmailfrom",), ()),
    "localmfcheck": ((), ("LOCALMFCHECK",)),
    "badrcptto": (("badrcptto",), ()),
    "relay": ((), ()),
    "rcpthosts": ((), ()),
    "tarpit": (("tarpitcount",), ("TARPITCOUNT",)),
    "bouncecheck": ((), ("BOUNCECHECK",)),
    "recipients": (("recipients",), ()),
    "rcptcheck": ((), ("RCPTCHECK",)),
    "unknown": ((), ("MAXNOTIMPL",)),
    "headers": (
        ("requiredheaders", "singleheaders", "datepast", "datefuture"),
        ("REQUIREDHEADERS", "SINGLEHEADERS", "DATEPAST", "DATEFUTURE"),
    ),
    "loop": (("loopcheck",), ("LOOPCHECK",)),
    "spamcontrollog": ((), ("LOGFORMAT",)),
    "qmailqueue": ((), ()),
}
#: These rules are always there: without them nobody could send anything.
ALWAYS = ("relay", "rcpthosts", "qmailqueue")
#: Only these can let a recipient in.
GRANTING = ("relay", "rcpthosts")


class Line:
    """A plugin as it is asked for: a line of control/plugins, or what stands for it (`where`).

    `name` is what the plugin is called in the log and elsewhere; `plugin`, what
    it is to be found by.
    """

    __slots__ = ("name", "plugin", "options", "where")

    def __init__(self, text: str, options: Mapping[bytes, bytes], where: str) -> None:
        folder, slash, name = text.rpartition("/")
        name, colon, label = name.partition(":")
        self.plugin = folder + slash + name
        self.name = (name.removesuffix(".py") if slash else name) + colon + label
        self.options = options
        self.where = where


def is_on(name: str, settings: Settings) -> bool:
    """Does a control file or a variable switch this built-in plugin on?  Raises ControlError."""
    return name in ALWAYS or bool(switches(name, settings))


def switches(name: str, settings: Settings) -> list[str]:
    """The files and variables that do."""
    files, variables = BUILT_IN[name]
    found = [variable for variable in variables if variable.encode("ascii") in settings.environ]
    for file in files:
        try:
            os.stat(settings.controls.path(file))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ControlError("control/" + file, error.strerror or "unreadable") from error
        found.append("control/" + file)
    return found
