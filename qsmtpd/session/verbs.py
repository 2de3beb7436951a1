"""Which commands there are: a table of verbs, for each of the few kinds of sessions."""

from __future__ import annotations

from ..smtp import replies
from .commands import Commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.session import SessionSettings
    from ..facts import Reply
    from ..policy.spec import Order

    Table = dict[bytes, Callable[[Commands, bytes], Reply]]

#: Those that every client can give.
_ALWAYS: Table = {
    b"HELO": Commands.helo,
    b"EHLO": Commands.ehlo,
    b"MAIL": Commands.mail,
    b"RCPT": Commands.rcpt,
    b"DATA": Commands.data,
    b"RSET": lambda commands, argument: replies.FLUSHED,
    b"NOOP": lambda commands, argument: replies.OK,
    b"VRFY": lambda commands, argument: replies.VRFY,
    b"HELP": lambda commands, argument: replies.HELP,
    b"QUIT": Commands.quit,
}
#: (is there BDAT, STARTTLS, AUTH?) -> what all such sessions share
_tables: dict[tuple[bool, bool, bool], Table] = {}


def table(settings: SessionSettings, starttls: bool, order: Order) -> Table:
    """The commands of a session, which may have STARTTLS, with these plugins; not to be changed."""
    auth = bool(settings.auth.mechanisms) or settings.auth.dovecot is not None
    kind = settings.chunking, starttls, auth
    found = _tables.get(kind)
    if found is None:
        found = _tables[kind] = dict(_ALWAYS)
        if settings.chunking:
            found[b"BDAT"] = Commands.bdat
        if starttls:
            found[b"STARTTLS"] = Commands.starttls
        if auth:
            found[b"AUTH"] = Commands.auth
    return {**found, **_of_plugins(order)} if order.commands else found


def _of_plugins(order: Order) -> Table:
    def of(verb: bytes) -> Callable[[Commands, bytes], Reply]:
        stage = "command_" + verb.decode("ascii").lower()
        return lambda commands, argument: commands.of_plugin(stage, argument)

    return {verb: of(verb) for verb in order.commands}
