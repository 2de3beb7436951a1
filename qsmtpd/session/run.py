"""The session: one dialogue after the other, from the greeting to the goodbye.

There is a second one only after STARTTLS (see dialogue.py).
"""

from __future__ import annotations

from time import monotonic

from ..facts import Client, Counters, Outcome
from ..net.channel import Gone, Timeout
from ..smtp import replies
from .dialogue import Dialogue, Secured
from .ending import Hangup, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.session import Limits
    from ..facts import Peer, Tls
    from ..log import Log
    from ..net.channel import Channel
    from ..policy.hooks import Hooks
    from ..tls.provider import Door


def run(
    channel: Channel,
    peer: Peer,
    limits: Limits,
    hooks: Hooks,
    log: Log,
    tls: Tls | None,
    door: Door | None,
    leave: Callable[[int], object],
    listed: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Speak SMTP with the client until one side has enough.  Raises nothing.

    `tls` is what there is already; `door`, how STARTTLS gets it; `listed`, that
    filters leave the client alone; `dry_run`, that nothing is queued.
    `leave(status)` ends the process, where a plugin cannot be stopped.
    """
    counters = Counters(monotonic())
    over = False  # the last reply has been said

    def stop(plugin: str, stage: str) -> None:
        """A plugin goes on and on: this is the end, from within it."""
        log.line("trouble", error="Overdue", reason="does not stop", plugin=plugin, hook=stage)
        last = Hangup("plugin-hangs", None if over else replies.PLUGIN_HANGS)
        _say_goodbye(channel, last)
        _log_session(log, channel, peer, counters, last)
        hooks.guard.stop()
        leave(last.status)

    def start(tls: Tls | None) -> Dialogue:
        client = Client(peer, tls, counters, listed)
        client.dry_run = dry_run
        client.pause = lambda seconds: hooks.guard.suspended(channel.pause, seconds)
        client.speaks = lambda seconds: bool(hooks.guard.suspended(channel.speaks, seconds))
        return Dialogue(channel, client, limits, hooks, log, door)

    hooks.guard.escape = stop
    dialogue = start(tls)
    try:
        dialogue.greet()
        while True:
            try:
                dialogue.converse()
            except Secured as secured:
                # A fresh one begins, from the facts of the Peer alone (RFC
                # 3207, 4.2).  Only the counters of abuse go on.
                hooks.guard.hush()
                dialogue.end()
                hooks = hooks.renew()
                dialogue = start(secured.tls)
                dialogue.welcome()
    except Exception as error:
        hangup = explain(error, log)
    counters.refused += hangup.reply is not None and hangup.reply[0] in b"45"
    _say_goodbye(channel, hangup)
    over = True
    hooks.guard.hush()
    dialogue.end(hangup)
    _log_session(log, channel, peer, counters, hangup)
    return Outcome(hangup.end, hangup.status, hooks.trouble)


def _say_goodbye(channel: Channel, hangup: Hangup) -> None:
    try:
        if hangup.reply is not None:
            channel.write(hangup.reply + b"\r\n")
        if hangup.end != "tls-failed":  # then not another plain byte
            channel.close()
    except (Gone, Timeout):
        pass


def _log_session(
    log: Log, channel: Channel, peer: Peer, counters: Counters, hangup: Hangup
) -> None:
    log.line(
        "session",
        end=hangup.end,
        reply=hangup.reply,
        port=peer.port,
        local_ip=peer.local_ip,
        local_port=peer.local_port,
        seconds=f"{monotonic() - counters.start:.3f}",
        bytes_in=channel.bytes_in,
        bytes_out=channel.bytes_out,
        commands=counters.commands,
        messages=counters.messages,
        refused=counters.refused,
        errors=counters.errors,
    )
