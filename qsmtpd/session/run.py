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
    settings, log = plan.settings, plan.log
    counters = Counters(since)
    if greeted:
        channel.bytes_out += len(settings.greeting_line)
    if peer.local_host == ucspi.UNKNOWN and settings.me:
        peer.local_host = settings.me
    listed = settings.immune.names(peer)
    over = False  # the last reply has been said

    def stop(plugin: str, hook: str) -> None:
        """A plugin does not stop at its time limit: this is the end, from within it."""
        log_hang(log, plugin, hook)
        reply = settings.in_form(replies.PLUGIN_HANGS) if greeted else replies.PLUGIN_HANGS
        ending = Ending.by(reply) if not over else Ending("plugin-hangs")
        log_session(log, channel, peer, counters, ending)  # now: a goodbye can take too long
        say_goodbye(channel, ending)
        hooks.stop()
        channel.drain(clean=False)
        leave(ending.status)

    def begin(tls: Tls | None) -> Dialogue:
        client = Client(peer, tls, counters, listed)
        client.dry_run = dry_run
        client.pause = lambda seconds: hooks.suspended(channel.pause, seconds)
        client.speaks = lambda seconds: bool(hooks.suspended(channel.speaks, seconds))
        return Dialogue(channel, client, settings, hooks, log, plan.provider)

    hooks.on_hang(stop)
    dialogue = begin(tls)
    try:
        ending = None if greeted else dialogue.greet()
        greeted = ending is None
        while ending is None:
            try:
                ending = dialogue.converse()
            except TlsStarted as started:
                # A fresh one begins, from the facts of the Peer alone (RFC
                # 3207, 4.2).  Only the counters of abuse go on.
                dialogue.end()
                hooks = hooks.renew()
                dialogue = begin(started.tls)
                ending = dialogue.welcome()
    except Exception as error:
        ending = ending_of(error, log)
        if ending.reply is not None and greeted:  # in place of the greeting it has no code
            ending.reply = settings.in_form(ending.reply)
    counters.refused += ending.reply is not None and ending.reply.refused
    say_goodbye(channel, ending)
    over = True
    dialogue.end(ending.reply)
    log_session(log, channel, peer, counters, ending)
    hooks.stop()
    return Outcome(ending.word, ending.status, hooks.trouble)
