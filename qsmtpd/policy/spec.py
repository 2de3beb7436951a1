"""The built-in plugins in their order; a plugin as it is asked for, one in its place, and all.

A built-in filter is on where one of its control files or variables is there (BUILT_IN);
what control/plugins and QSMTPD_PLUGINS make of that is in lines.py.
"""

from __future__ import annotations

from ..decision import reject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from ..facts import Client

#: name -> (control files, variables): it is on when one of them is there.  The
#: cheap ones come first, and what only makes sense for a recipient that is
#: taken at all comes behind rcpthosts.
BUILT_IN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "karma": ((), ("KARMALIMIT",)),
    # Before who lets clients wait: while they do, they count.
    "clientlimit": (("clientlimit",), ("CLIENTLIMIT",)),
    "greetdelay": (("greetdelay",), ("SMTPD_GREETDELAY", "GREETDELAY")),
    "rblsmtpd": ((), ("RBLSMTPD",)),
    "helocheck": (("badhelo",), ("HELOCHECK",)),
    "badmailfrom": (("badmailfrom",), ()),
    "localmfcheck": ((), ("LOCALMFCHECK",)),
    "badrcptto": (("badrcptto",), ()),
    "relay": ((), ()),
    "rcpthosts": ((), ()),
    "spp": (("smtpplugins",), ("SPPCONFFILE",)),
    "tarpit": (("tarpitcount",), ("TARPITCOUNT",)),
    "bouncecheck": ((), ("BOUNCECHECK",)),
    "recipients": (("recipients",), ()),
    "validrcptto": (("validrcptto.cdb",), ("VALIDRCPTTO_CDB",)),
    "dovecotusers": (("dovecotusers",), ("DOVECOTUSERS",)),
    "rcptcheck": ((), ("RCPTCHECK",)),
    "mfdnscheck": ((), ("MFDNSCHECK",)),
    "fcrdns": (("fcrdns",), ("FCRDNS",)),
    "dnsbl": (("dnsbls",), ()),
    "rhsbl": (("rhsbls",), ()),
    "dkim": (("dkim",), ("DKIM",)),
    # It has to be asked before spf, whose refusal at the end of a message it may excuse.
    "dmarc": (("dmarcpolicy",), ("DMARCPOLICY",)),
    "spf": (("spfbehavior",), ("SPFBEHAVIOR",)),
    "policyserver": (("policyservers",), ()),
    # A 4xx of its own, behind all that say 5xx at RCPT, and behind spf and fcrdns, for their notes.
    "greylist": (("greylist",), ("GREYLIST",)),
    "sendlimits": (("sendlimits",), ()),
    "unknown": ((), ("MAXNOTIMPL",)),
    "headers": (
        ("requiredheaders", "singleheaders", "datepast", "datefuture"),
        ("REQUIREDHEADERS", "SINGLEHEADERS", "DATEPAST", "DATEFUTURE"),
    ),
    "loop": (("loopcheck",), ("LOOPCHECK",)),
    "badheaders": (("badheaders",), ()),
    "badattachments": (("badattachments",), ()),
    "badmimetypes": ((), ("BADMIMETYPE",)),
    "badloadertypes": ((), ("BADLOADERTYPE",)),
    # Those behind it, as a milter for DMARC, may make something of what it says.
    "authresults": (("authresults",), ("AUTHRESULTS",)),
    "clamd": (("clamd",), ()),
    "messagecheck": (("messagecheck",), ("MESSAGECHECK",)),
    "rspamd": (("rspamd",), ()),
    "spamd": (("spamd",), ()),
    "milter": (("milters",), ()),
    "spamcontrollog": ((), ("LOGFORMAT",)),
    "qmqpqueue": (("qmqpqueue",), ("QMQPQUEUE",)),
    "qmailqueue": ((), ()),
}
#: These rules are always there: without them nobody could send anything.
ALWAYS = ("relay", "rcpthosts", "qmailqueue")
#: Only these can let a recipient in.
GRANTING = ("relay", "rcpthosts", "spp")

#: The variable that changes it for a client.
VARIABLE = "QSMTPD_PLUGINS"
TIMEOUT = 30.0  # seconds: of one call of a plugin

#: Until when a refusal may be postponed: not at all, to RCPT, to DATA.
NO, AT_RCPT, AT_DATA = POSTPONE = ("none", "rcpt", "data")
#: Which clients a plugin may want to leave alone.
IMMUNITIES = ("relay", "auth", "listed")
NOBODY_ACCEPTS = reject(b"sorry, that domain isn't in my list of allowed rcpthosts", 553, b"5.7.1")


class PluginSpec:
    """A plugin as it is asked for: a line of control/plugins, or what stands for it.

    `name` is what the plugin is called in the log and elsewhere; `plugin`, what it is
    to be found by; `options`, those of its line; `where`, the file or variable that
    names it, for errors.
    """

    __slots__ = ("name", "plugin", "options", "where")

    def __init__(self, text: str, options: Mapping[bytes, bytes], where: str) -> None:
        folder, slash, name = text.rpartition("/")
        name, colon, label = name.partition(":")
        self.plugin = folder + slash + name
        self.name = (name.removesuffix(".py") if slash else name) + colon + label
        self.options = options
        self.where = where


class Entry:
    """A plugin in its place: its name there, and what holds for it.

    `functions` maps a stage to what is to be called there.  `spool`: it wants the
    message in a file; where that is asked for each message, a function says so.
    `ours`: it came with this package.  `grants`: its accept lets a recipient in.
    `removes`: at the stage header it is asked, too, where an earlier one has accepted.
    """

    __slots__ = (
        "name",
        "functions",
        "immune",
        "spool",
        "timeout",
        "postpone",
        "grants",
        "removes",
        "ours",
        "file",
    )

    def __init__(
        self,
        name: str,
        functions: dict[str, Callable[..., Any]],
        immune: Iterable[str] = (),
        spool: bool | Callable[[], bool] = False,
        timeout: float = TIMEOUT,
        postpone: str = NO,
        grants: bool = False,
        removes: bool = False,
        ours: bool = True,
        file: str | None = None,
    ) -> None:
        self.name = name
        self.functions = functions
        self.immune = tuple(immune)
        self.spool = spool
        self.timeout = timeout
        self.postpone = postpone
        self.grants = grants
        self.removes = removes
        self.ours = ours
        self.file = file  # where its code is

    def skips(self, client: Client) -> bool:
        """Is this client immune against this plugin?"""
        return bool(self.immune) and (
            ("relay" in self.immune and client.relay is not None)
            or ("auth" in self.immune and client.auth is not None)
            or ("listed" in self.immune and client.listed)
        )


class Order:
    """Plugins in their order, and who of them is at which stage.

    `grants`: how many can let a recipient in.  `commands` are the verbs that they
    bring.  `observed`: one of them is told of what has been decided.
    """

    __slots__ = ("entries", "at", "grants", "commands", "observed")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.at: dict[str, list[Entry]] = {}
        for entry in entries:
            for stage in entry.functions:
                self.at.setdefault(stage, []).append(entry)
        self.grants = sum(entry.grants for entry in entries)
        self.observed = "ok" in self.at or "deny" in self.at
        self.commands = {
            stage.removeprefix("command_").upper().encode("ascii")
            for stage in self.at
            if stage.startswith("command_")
        }

    def spools(self, client: Client) -> bool:
        """Does one of them want the next message of this client in a file?"""
        wants = (e.spool for e in self.at.get("data_post", ()) if not e.skips(client))
        return any(want if isinstance(want, bool) else want() for want in wants)
