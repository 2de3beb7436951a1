"""The hooks: which plugins are asked at a stage, in which order, and whose word counts.

The first decision that is not `decline` wins.  At the stage rcpt an accept is
only remembered, for a later plugin may still refuse; and only the rules that
grant, relay, rcpthosts and spp, can let a recipient in: if none of them accepts, it
is refused.  A plugin that raises, takes too long or returns nonsense makes a
451 and a line in the log: it is never passed over.
"""

from __future__ import annotations

from ..decision import ACCEPT, DECLINE, DECLINED, DROP, REFUSALS, Decision, defer
from ..facts import ControlError, Lost, Ruling
from ..log import log_trouble
from ..smtp.replies import PLUGIN_TROUBLE
from . import stages
from .spec import AT_DATA, AT_RCPT, NO, NOBODY_ACCEPTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..decision import Changes, Removals
    from ..facts import Client, Envelope
    from ..log import Log
    from .backend import BackEnd
    from .spec import Entry, Order
    from .timelimit import TimeLimit


#: What the hooks say of a stage at which there is nobody.
_NOBODY = {stage: Ruling(stage, "", DECLINED) for stage in stages.STAGES}
TROUBLE = defer(PLUGIN_TROUBLE.text, PLUGIN_TROUBLE.code, PLUGIN_TROUBLE.status)
#: Plugins can add this many lines to a header.
HEADER_LINES = 100


class Hooks:
    """The plugins of one session, in order.

    make() builds their order: after STARTTLS it is called again, for nothing
    that a plugin has noted may survive that.  `watch`, where it is set, is
    shown every single verdict: watch(stage, plugin, decision or exception, or
    None where the client is immune).  `trouble`: has a plugin raised, taken too
    long or returned nonsense?
    """

    __slots__ = (
        "order",
        "limit",
        "watch",
        "trouble",
        "refuse",
        "log",
        "removals",
        "_make",
        "_at",
        "_lines",
        "_postponed",
    )

    def __init__(
        self,
        make: Callable[[], Order],
        log: Log,
        refuse: Decision = NOBODY_ACCEPTS,
        limit: TimeLimit | None = None,
    ) -> None:
        self.order = make()
        self.limit = limit
        self.refuse = refuse
        self.watch: Callable[[str, str, Decision | BaseException | None], None] | None = None
        self.trouble = False
        #: Of the message under way: which header fields are to go, and who says so.
        self.removals: list[tuple[Entry, Removals]] = []
        self._make = make
        self.log = log
        self._at = self.order.at
        #: stage -> the header lines that its decisions carried, and whether above Received
        self._lines: dict[str, dict[tuple[bool, bytes], None]] = {}
        #: stage -> a refusal that is to be said later, and whose it is
        self._postponed: dict[str, tuple[Entry, Decision]] = {}

    def renew(self) -> Hooks:
        """The same plugins, without memory.  Raises ControlError.

        What a plugin decided when the client connected still holds.
        """
        fresh = Hooks(self._make, self.log, self.refuse, self.limit)
        fresh.watch = self.watch
        fresh.trouble = self.trouble
        for stage, (entry, decision) in self._postponed.items():
            if stage == stages.CONNECT:
                fresh._postponed[stage] = entry, decision
        if stages.CONNECT in self._lines:
            fresh._lines[stages.CONNECT] = self._lines[stages.CONNECT]
        return fresh

    def has(self, *wanted: str) -> bool:
        """Is there a plugin at one of these stages?"""
        return any(stage in self._at for stage in wanted)

    def at(self, stage: str) -> list[Entry]:
        """The plugins of a stage, in order."""
        return self._at.get(stage, [])

    # -- questions ---------------------------------------------------------

    def ask(self, stage: str, client: Client, *facts: Any, about: bytes = b"") -> Ruling:
        """What the plugins of a stage say: the first one that has an opinion.

        Raises Lost, or ControlError.
        """
        if stage in (stages.HELO, stages.MAIL):
            self.forget(stages.TRANSACTION if stage == stages.MAIL else (stage,))
        if self._postponed and stage == stages.DATA:
            ruling = self._due(AT_DATA, stage, client, about)
            if ruling is not None:
                return ruling
        entries = self._at.get(stage)
        if entries is None:
            return Ruling(stage, "", DECLINED, about) if self.order.observed else _NOBODY[stage]
        accepted: Ruling | None = None
        for entry in entries:
            if accepted is not None and not entry.removes:
                continue
            if entry.immune and self._skips(entry, stage, client):
                continue
            decision = self._ask(entry, stage, client, *facts)
            if stage == stages.DATA_POST and self.run(entry, stage, facts[-1].rewind) is not None:
                decision = TROUBLE  # it has closed the file that others are to be shown
            if decision.header or decision.above:
                self._add_lines(stage, stages.lines(decision))
            if decision.remove:
                self.removals.append((entry, decision.remove))
            if decision.verdict != DECLINE and not self._postpone(entry, stage, decision):
                if stage == stages.HELO and decision.verdict in REFUSALS:
                    # A client needs no HELO: who goes on without is refused at RCPT.
                    self._postponed.setdefault(stage, (entry, decision))
                if stage != stages.HEADER or decision.verdict != ACCEPT:
                    return Ruling(stage, entry.name, decision, about)
                accepted = accepted or Ruling(stage, entry.name, decision, about)
        return accepted or Ruling(stage, "", DECLINED, about)

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> tuple[Ruling, bytes]:
        """May this recipient have mail?  (the ruling, the recipient for the envelope)

        Raises Lost, or ControlError.
        """
        stage, asked = stages.RCPT, recipient
        if self._postponed:
            due = self._due(AT_RCPT, stage, client, asked)
            if due is not None:
                return due, recipient
        name, granted, reason = "default", self.refuse, b""
        left = self.order.grants
        lines: list[tuple[bool, bytes]] = []
        later: tuple[Entry, Decision] | None = None
        suffixed = False  # by relay: a second one, as `relay:2`, does not add it again
        for entry in self._at.get(stage, ()):
            if left == 0 and granted is self.refuse:
                break  # all that could grant have been asked
            if entry.immune and self._skips(entry, stage, client):
                continue
            decision = self._ask(entry, stage, client, envelope, recipient)
            left -= entry.grants
            if decision.header or decision.above:
                lines += stages.lines(decision)
            if decision.verdict in REFUSALS:
                if not self._is_postponed(entry, stage, decision):
                    return Ruling(stage, entry.name, decision, asked), recipient
                later = later or (entry, decision)
                continue
            is_relay = entry.grants and entry.name.partition(":")[0] == "relay"
            if decision.recipient is not None and not (is_relay and suffixed):
                recipient, suffixed = decision.recipient, suffixed or is_relay
            if not entry.grants or granted is not self.refuse:
                continue
            if decision.verdict == ACCEPT:
                name, granted, reason = entry.name, decision, b""
            elif decision.text:
                name, reason = entry.name, decision.text
        if granted is not self.refuse:
            if lines:
                self._add_lines(stage, lines)
            if later is not None:
                self._postponed.setdefault(stage, later)
        return Ruling(stage, name, granted, asked, reason), recipient

    def capabilities(self, client: Client) -> list[bytes] | None:
        """What plugins add to the answer to EHLO; None where one of them is in trouble."""
        found: list[bytes] = []
        for entry in self._at.get(stages.CAPABILITIES, ()):
            said = self._call(entry, stages.CAPABILITIES, client)
            if isinstance(said, BaseException):
                return None
            if not isinstance(said, list) or not all(map(stages.is_capability, said)):
                self._complain(entry, stages.CAPABILITIES, TypeError("returned no capabilities"))
                return None
            found += said
        return found

    def body(self, client: Client, envelope: Envelope, chunk: bytes) -> Ruling | None:
        """Show the plugins more of the body; a ruling where one of them is in trouble."""
        for entry in self._at.get(stages.BODY, ()):
            if entry.skips(client):
                continue
            said = self._call(entry, stages.BODY, client, envelope, chunk)
            if said is not None and not isinstance(said, BaseException):
                self._complain(entry, stages.BODY, TypeError("returned something"))
            if said is not None:
                return Ruling(stages.BODY, entry.name, TROUBLE)
        return None

    def back_end(self, client: Client, envelope: Envelope) -> BackEnd | None:
        """Where the next message goes: what the first plugin says that has an opinion.

        None where a plugin is in trouble.  What qsmtpd.queue raises is raised.
        """
        for entry in self._at.get(stages.QUEUE, ()):
            if entry.ours:  # the queue's own exceptions are told apart by its caller
                found: BackEnd | None = entry.functions[stages.QUEUE](client, envelope)
                if found is None:
                    continue
                return found
            said = self._call(entry, stages.QUEUE, client, envelope)
            if isinstance(said, BaseException):
                return None
            if said is not None:
                return self._wrapped(entry, said)
        return None

    def _wrapped(self, entry: Entry, said: object) -> BackEnd | None:
        from .backend import PluginBackEnd

        def call(function: Callable[..., object], *facts: object) -> object:
            return self.run(entry, stages.QUEUE, function, *facts)

        def complain(error: BaseException) -> None:
            self._complain(entry, stages.QUEUE, error)

        # Its attributes may be code of the plugin's, too.
        found = self.run(entry, stages.QUEUE, lambda: PluginBackEnd(said, call, complain))
        return found if isinstance(found, PluginBackEnd) else None

    def tell(self, client: Client, ruling: Ruling) -> None:
        """Let the observers know; what they do wrong is only logged."""
        stage = stages.DENY if ruling.decision.verdict in REFUSALS else stages.OK
        for entry in self._at.get(stage, ()):
            self._inform(entry, stage, client, ruling)

    def notify(self, stage: str, client: Client, *facts: object) -> None:
        """Call `queue_failed`, `reset` or `disconnect`; what goes wrong is only logged."""
        for entry in self._at.get(stage, ()):
            self._inform(entry, stage, client, *facts)

    def _inform(self, entry: Entry, stage: str, client: Client, *facts: object) -> None:
        try:
            self._call(entry, stage, client, *facts)
        except ControlError as error:  # a reply that is due, as 250, is not to be lost for that
            self._complain(entry, stage, error)

    # -- the time limit of plugins from elsewhere ---------------------------

    def suspended(self, function: Callable[[float], Any], seconds: float) -> Any:
        """function(seconds), which a plugin has asked for: that is not the plugin's time."""
        if self.limit is None:
            return function(seconds)
        return self.limit.suspended(function, seconds)

    def stop(self) -> None:
        """No plugin will be called any more."""
        if self.limit is not None:
            self.limit.stop()

    def log_trouble(self, error: Exception) -> None:
        """Say in the log what went wrong around the plugins."""
        self.trouble = True
        log_trouble(self.log, error)

    # -- what decisions leave behind ----------------------------------------

    def with_lines(self, received: bytes) -> bytes:
        """Our Received lines, around them those that decisions have added, each once; with LF."""
        if not self._lines:
            return received
        lines = [*{line: None for stage in stages.STAGES for line in self._lines.get(stage, ())}]
        above, below = (
            b"".join(line + b"\n" for is_above, line in lines[:HEADER_LINES] if is_above is place)
            for place in (True, False)
        )
        return above + received + below

    def forget(self, which: Iterable[str]) -> None:
        """Nothing that was decided at these stages holds any more."""
        if not self._lines and not self._postponed and not self.removals:
            return
        self.removals = []
        for stage in which:
            self._lines.pop(stage, None)
            self._postponed.pop(stage, None)

    def _add_lines(self, stage: str, lines: Iterable[tuple[bool, bytes]]) -> None:
        self._lines.setdefault(stage, {}).update(dict.fromkeys(lines))

    def _postpone(self, entry: Entry, stage: str, decision: Decision) -> bool:
        """Is this refusal to be said later?  Then it is kept."""
        if not self._is_postponed(entry, stage, decision):
            return False
        self._postponed.setdefault(stage, (entry, decision))
        return True

    def _is_postponed(self, entry: Entry, stage: str, decision: Decision) -> bool:
        if decision.verdict not in REFUSALS or stage not in stages.POSTPONED:
            return False
        if decision.verdict == DROP and stage == stages.RCPT:
            return False  # at RCPT a client can be told: no need to go on with it
        postpone = entry.postpone
        if decision is TROUBLE and stage in stages.ENDING:
            postpone = postpone if postpone != NO else AT_RCPT  # the next command works
        return postpone != NO and (stage != stages.RCPT or postpone != AT_RCPT)

    def _due(self, when: str, stage: str, client: Client, about: bytes) -> Ruling | None:
        """A postponed refusal that is to be said now."""
        for entry, decision in self._postponed.values():
            postpone = entry.postpone if entry.postpone != NO else AT_RCPT
            if postpone == when and not entry.skips(client):
                return Ruling(stage, entry.name, decision, about)
        return None

    def _skips(self, entry: Entry, stage: str, client: Client) -> bool:
        skips = entry.skips(client)
        if skips and self.watch is not None:
            self.watch(stage, entry.name, None)
        return skips

    # -- plugin code -------------------------------------------------------

    def _ask(self, entry: Entry, stage: str, client: Client, *facts: object) -> Decision:
        said = self._call(entry, stage, client, *facts)
        if isinstance(said, Decision):
            if said.bare:
                return said
            if not stages.fits(stage, said, *facts):
                said = ValueError("no place, or too late, for what it carries")
                self._complain(entry, stage, said)
            elif said.changes is None or self._change(entry, said.changes, *facts):
                return said
        elif not isinstance(said, BaseException):
            self._complain(
                entry, stage, TypeError(f"returned a {type(said).__name__}, no Decision")
            )
        return TROUBLE

    def _change(self, entry: Entry, changes: Changes, envelope: Any, message: Any) -> bool:
        from .spool import change

        try:
            change(self.log, entry.name, changes, envelope, message)
        except TypeError as error:
            self._complain(entry, stages.DATA_POST, error)
            return False
        return True

    def _call(self, entry: Entry, stage: str, client: Client, *facts: object) -> object:
        """Ask a plugin; what it raises is logged and returned."""
        said = self.run(entry, stage, entry.functions[stage], client, *facts)
        if self.watch is not None and isinstance(said, Decision):
            self.watch(stage, entry.name, said)
        return said

    def run(self, entry: Entry, stage: str, function: Callable[..., Any], *facts: object) -> object:
        """Run plugin code; what it raises is logged and returned."""
        try:
            # Ours have no time limit: those that ask a program have a bound of their own.
            if entry.ours or self.limit is None:
                said: object = function(*facts)
            else:
                said = self.limit.call((entry.name, stage), entry.timeout, function, *facts)
        except (Lost, ControlError):
            raise
        except BaseException as error:  # SystemExit as well: only we end the session
            if self.limit is not None and self.limit.escaped:
                raise
            self._complain(entry, stage, error)
            return error
        if isinstance(said, BaseException):  # it is one of those above, to who called us
            self._complain(entry, stage, TypeError(f"returned a {type(said).__name__}"))
        return said

    def _complain(self, entry: Entry, stage: str, error: BaseException) -> None:
        self.trouble = True
        log_trouble(self.log, error, entry.file, plugin=entry.name, hook=stage)
        if self.watch is not None:
            self.watch(stage, entry.name, error)
