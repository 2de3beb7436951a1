"""A session: one dialogue after the other, from the greeting to the goodbye.

There is a second dialogue only after STARTTLS.
"""

from __future__ import annotations

from ..facts import Client, Counters, Outcome
from ..log import log_hang
from ..net import ucspi
from ..smtp import replies
from .commands import TlsStarted
from .dialogue import Dialogue
from .ending import Ending, ending_of, log_session, say_goodbye

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..facts import Peer, Tls
    from ..net.channel import Channel
    from ..policy.hooks import Hooks
    from .plan import Plan


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
    """Speak SMTP with the client until one side has enough.  Raises nothing.

    `tls` is the encryption that there is already; `dry_run`: nothing will be
    queued; `since` and `greeted` as in connection.serve().  leave(status) ends
    the process, where a plugin cannot be stopped.
    """
    if greeted:
        channel.bytes_out += len(plan.settings.greeting_line)
    if peer.local_host == ucspi.UNKNOWN and plan.settings.me:
        peer.local_host = plan.settings.me
    return _Session(channel, peer, plan, hooks, leave, since, greeted, dry_run).run(tls)


class _Session:
    __slots__ = (
        *("_channel", "_peer", "_plan", "_hooks", "_leave", "_dry_run", "_counters", "_listed"),
        *("_greeted", "_over"),
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
        self._channel = channel
        self._peer = peer
        self._plan = plan
        self._hooks = hooks
        self._leave = leave
        self._dry_run = dry_run
        self._counters = Counters(since)
        self._listed = plan.settings.immune.names(peer)
        self._greeted = greeted
        self._over = False  # the last reply has been said

    def run(self, tls: Tls | None) -> Outcome:
        channel, counters, log = self._channel, self._counters, self._plan.log
        if self._hooks.limit is not None:
            self._hooks.limit.escape = self._stop
        dialogue = self._begin(tls)
        try:
            ending = None if self._greeted else dialogue.greet()
            self._greeted = ending is None
            while ending is None:
                try:
                    ending = dialogue.converse()
                except TlsStarted as started:
                    # A fresh one begins, from the facts of the Peer alone (RFC
                    # 3207, 4.2).  Only the counters of abuse go on.
                    dialogue.end()
                    self._hooks = self._hooks.renew()
                    dialogue = self._begin(started.tls)
                    ending = dialogue.welcome()
        except Exception as error:
            ending = ending_of(error, log)
            if ending.reply is not None and self._greeted:  # in its place it has no code
                ending.reply = self._plan.settings.in_form(ending.reply)
        reply = ending.reply
        counters.refused += reply is not None and reply.refused
        say_goodbye(channel, ending)
        self._over = True
        dialogue.end(reply)
        log_session(log, channel, self._peer, counters, ending)
        self._hooks.stop()
        return Outcome(ending.word, ending.status, self._hooks.trouble)

    def _begin(self, tls: Tls | None) -> Dialogue:
        channel, plan, hooks = self._channel, self._plan, self._hooks
        client = Client(self._peer, tls, self._counters, self._listed)
        client.dry_run = self._dry_run
        if hooks.limit is None:
            client.pause, client.speaks = channel.pause, channel.speaks
        else:  # what a plugin has asked for does not count as its time
            client.pause = lambda seconds: hooks.suspended(channel.pause, seconds)
            client.speaks = lambda seconds: bool(hooks.suspended(channel.speaks, seconds))
        return Dialogue(channel, client, plan.settings, hooks, plan.log, plan.provider)

    def _stop(self, plugin: str, hook: str) -> None:
        """A plugin does not stop at its time limit: this is the end, from within it."""
        log, settings = self._plan.log, self._plan.settings
        log_hang(log, plugin, hook)
        reply = settings.in_form(replies.PLUGIN_HANGS) if self._greeted else replies.PLUGIN_HANGS
        ending = Ending.by(reply) if not self._over else Ending("plugin-hangs")
        # Now: a goodbye can take too long.
        log_session(log, self._channel, self._peer, self._counters, ending)
        say_goodbye(self._channel, ending)
        self._hooks.stop()
        self._channel.drain(clean=False)
        self._leave(ending.status)
