"""What every process that serves takes along."""

from __future__ import annotations

import sys

from ..child.spawn import Environ
from ..facts import ControlError
from ..session import plan
from . import imports, rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.files import ControlFiles
    from ..net.proxyhosts import ProxySettings
    from ..session.plan import NoPlan, Plan
    from .options import Options
    from .rules import Rules


#: So many distinct rules have plans that are kept.
PLANS_LIMIT = 1000


class Preloaded:
    """What was read, imported and built at the start, or on HUP (see warmup.py).

    `plan` is that of clients without a rule.  `external_plugins`: may a session have
    plugins that did not come with this program?  `problems` are sentences about what
    is wrong.  `serves`: is there anything but 421 for a client?  `expires` says when
    the first of the certificates does, and `read` when all this was read.  `proxies`: who
    sends PROXY headers, None where nobody does.
    """

    __slots__ = (
        *("files", "plan", "external_plugins", "problems", "serves", "expires", "read"),
        "proxies",
    )

    def __init__(self, files: ControlFiles, made: Plan | NoPlan, read: str) -> None:
        self.files = files
        self.plan = made
        self.external_plugins = True
        self.problems: list[str] = []
        self.serves = False
        self.expires: str | None = None
        self.proxies: ProxySettings | None = None
        self.read = read

    def note(self, problem: str) -> bool:
        """Add it to the problems; False where it was there."""
        if problem in self.problems:
            return False
        self.problems.append(problem)
        return True


class Configuration:
    """The command line, the rules, and what was read and built beforehand.

    `environ` is the environment of every connection, before what is its own.
    `made`: how many plans have been.  `imported`: modules that they wanted, and nobody before.
    A HUP makes a new Configuration, with the same options and rules.
    """

    __slots__ = (
        *("options", "protocol", "environ", "rules", "external_plugins", "preloaded", "made"),
        *("imported", "_plans"),
    )

    def __init__(
        self,
        options: Options,
        environ: Mapping[bytes, bytes],
        client_rules: Rules | None,
        preloaded: Preloaded,
    ) -> None:
        self.options = options
        self.protocol = preloaded.plan.protocol
        self.environ = environ
        self.rules = client_rules
        self.preloaded = preloaded
        self._plans: dict[bytes, Plan | NoPlan] = {b"": preloaded.plan}
        self.external_plugins = preloaded.external_plugins
        self.made = 1
        self.imported = 0

    def make_plans(self) -> list[Plan | NoPlan]:
        """Those of all rules, made now, so that what they ask for is read with all the rest."""
        try:
            found = {} if self.rules is None else self.rules.all()
        except ControlError:  # each client hears of it
            return []
        served = {rule for rule in found.values() if not rules.denies(rule)}
        return [self.plan(rule) for rule in sorted(served)[:PLANS_LIMIT]]

    def plan(self, rule: bytes) -> Plan | NoPlan:
        """The plan of the clients whose rule has these instructions."""
        found = self._plans.get(rule)
        if found is None:
            environ = {**self.environ, **rules.variables(rule)}
            if len(self._plans) >= PLANS_LIMIT:
                self._plans = {b"": self._plans[b""]}
            files, checkpassword = self.preloaded.files, self.options.checkpassword
            before = len(sys.modules)
            found = plan.make(self.protocol, files, environ, checkpassword)
            if isinstance(found, plan.Plan):
                imports.while_serving(found)
            self.imported += len(sys.modules) - before
            self._plans[rule] = found
            self.made += 1
        return found

    def environ_of(
        self, made: Plan | NoPlan, rule: bytes, facts: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes]:
        """The environment of one connection; what its rule says is stronger than the facts."""
        if rule:
            own = rules.variables(rule)
            facts = {**facts, **{name: own[name] for name in own if name in facts}}
        return Environ(made.environ, facts)

    def worse_than(self, other: Configuration) -> list[str]:
        """What is wrong here and is not there.  Nothing is worse than to serve nobody."""
        if not other.preloaded.serves:
            return []
        known = other.preloaded.problems
        return [problem for problem in self.preloaded.problems if problem not in known]
