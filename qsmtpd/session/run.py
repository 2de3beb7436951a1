"""A session, in whatever protocol: its client, its conversation, its end.

SMTP is spoken by dialogue.py, QMTP and QMQP by the package qmtp.
"""

from __future__ import annotations

from ..facts import Client, Counters, Outcome
from ..log import log_hang
from ..net import ucspi
from ..smtp import replies
from .ending import Ending, ending_of, log_session, say_goodbye

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..facts import Peer, Tls
    from ..net.channel import Channel
    from ..policy.hooks import Hooks
    from .plan import Plan
    from .protocol import Conversation


def run(
    channel: Channel,
    peer: Peer,
    plan: Plan,
    hooks: Hooks,
    tls: Tls | None,
    leave: Callable[[int], object],
    since: float,
    greeted: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Speak with the client until one side has enough.  Raises nothing.

    `tls` is the encryption that there is already; `dry_run`: nothing will be
    queued; `since` and `greeted` as in connection.serve().  leave(status) ends
    the process, where a plugin cannot be stopped.
    """
    if greeted:
        channel.bytes_out += len(plan.protocol.greeting(plan.settings))
    if peer.local_host == ucspi.UNKNOWN and plan.settings.me:
        peer.local_host = plan.settings.me
    return Session(channel, peer, plan, hooks, leave, since, greeted, dry_run).run(tls)


class Session:
    """What a conversation is about.  `hooks` may be renewed; `greeted`: has the client been?"""

    __slots__ = (
        *("channel", "plan", "hooks", "greeted", "counters"),
        *("_peer", "_leave", "_dry_run", "_listed", "_conversation", "_over"),
    )

    def __init__(
        self,
        channel: Channel,
        peer: Peer,
        plan: Plan,
        hooks: Hooks,
        leave: Callable[[int], object],
        since: float,
        greeted: bool,
        dry_run: bool,
    ) -> None:
        self.channel = channel
        self.plan = plan
        self.hooks = hooks
        self.greeted = greeted
        self.counters = Counters(since)
        self._peer = peer
        self._leave = leave
        self._dry_run = dry_run
        self._listed = plan.settings.immune.names(peer)
        self._conversation: Conversation | None = None
        self._over = False  # the last reply has been said

    def run(self, tls: Tls | None) -> Outcome:
        """All of it.  Raises nothing."""
        if self.hooks.limit is not None:
            self.hooks.limit.escape = self._stop
        conversation = self._conversation = self.plan.protocol(self, tls)
        try:
            ending = conversation.converse()
        except Exception as error:
            ending = ending_of(error, self.plan.log)
            if ending.reply is not None:  # what the conversation says by itself has its form
                ending.reply = conversation.in_form(ending.reply)
        words, text = self._last(ending)
        self.counters.refused += ending.reply is not None and ending.reply.refused
        say_goodbye(self.channel, ending, words)
        self._over = True
        conversation.end(ending.reply)
        self._log(ending, text)
        self.hooks.stop()
        return Outcome(ending.word, ending.status, self.hooks.trouble)

    def client(self, tls: Tls | None) -> Client:
        """The client, of whom nothing is known yet but the facts of the Peer."""
        channel, hooks = self.channel, self.hooks
        client = Client(self._peer, tls, self.counters, self._listed)
        client.protocol = self.plan.protocol.name
        client.dry_run = self._dry_run
        if hooks.limit is None:
            client.pause, client.speaks = channel.pause, channel.speaks
        else:  # what a plugin has asked for does not count as its time
            client.pause = lambda seconds: hooks.suspended(channel.pause, seconds)
            client.speaks = lambda seconds: bool(hooks.suspended(channel.speaks, seconds))
        return client

    def _last(self, ending: Ending) -> tuple[bytes, bytes | None]:
        """What is sent to say the last reply, and that in the log; None where nothing is said."""
        conversation = self._conversation
        if ending.reply is None or conversation is None:
            return b"", None
        words = conversation.goodbye(ending.reply)
        return words, conversation.text(ending.reply) if words else None

    def _log(self, ending: Ending, text: bytes | None) -> None:
        log_session(
            self.plan.log,
            self.channel,
            self._peer,
            self.counters,
            ending.word,
            text,
            self.plan.protocol.name,
        )

    def _stop(self, plugin: str, hook: str) -> None:
        """A plugin does not stop at its time limit: this is the end, from within it."""
        log_hang(self.plan.log, plugin, hook)
        reply, conversation = replies.PLUGIN_HANGS, self._conversation
        if conversation is not None:
            reply = conversation.in_form(reply)
        ending = Ending.by(reply) if not self._over else Ending("plugin-hangs")
        words, text = self._last(ending)
        # Now: a goodbye can take too long.
        self._log(ending, text)
        say_goodbye(self.channel, ending, words)
        self.hooks.stop()
        self.channel.drain(clean=False)
        self._leave(ending.status)
