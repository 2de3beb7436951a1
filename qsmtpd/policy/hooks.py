"""The hooks: which plugins are asked, in which order, and whose word counts.

A plugin is an object with a `name` and the hooks that it wants, as methods:

    rcpt(client, envelope, recipient) -> Decision

The first decision that is not `decline` wins, but an accept is only
remembered: a later plugin may still refuse.  If nobody accepts, the recipient
is refused: only a rule that grants can let mail in.  The text of a `decline`
says in the log why its plugin did not grant.
"""

from __future__ import annotations

from ..decision import ACCEPT, DECLINE, Decision, reject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from ..control import Settings
    from ..facts import Client, Envelope

    class Plugin(Protocol):
        """What every plugin is."""

        name: str

        def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision: ...


NOBODY_ACCEPTS = reject(b"sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", 553)


class Hooks:
    """The plugins of one connection, in order."""

    __slots__ = ("_plugins",)

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self._plugins = plugins

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> tuple[str, Decision]:
        """May this recipient have mail?  (name of the plugin that decided, its decision)

        Raises what a plugin raises; the session answers that with 4xx.
        """
        name, granted = "default", NOBODY_ACCEPTS
        for plugin in self._plugins:
            decision = plugin.rcpt(client, envelope, recipient)
            if decision.verdict == DECLINE:
                if decision.text and granted is NOBODY_ACCEPTS:
                    name = plugin.name + ": " + decision.text.decode("ascii")
            elif decision.verdict != ACCEPT:
                return plugin.name, decision
            elif granted is NOBODY_ACCEPTS:
                name, granted = plugin.name, decision
        return name, granted


def standard(settings: Settings) -> Hooks:
    """The plugins of a plain qmail-smtpd, in its order.  Raises ControlError."""
    from .badmailfrom import BadMailFrom
    from .rcpthosts import RcptHosts
    from .relay import Relay

    hosts = RcptHosts(settings)
    plugins: list[Plugin] = [BadMailFrom(settings), Relay(), hosts]
    rule = settings.line(None, "LOCALMFCHECK")
    if rule is not None:
        from .localmfcheck import LocalMfCheck

        plugins.insert(1, LocalMfCheck(settings, rule, hosts))
    return Hooks(plugins)
