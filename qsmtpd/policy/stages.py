"""The stages of a session at which plugins are asked, as data.

qpsmtpd's vocabulary.  REPLIES has the codes of a refusal that names none: for
good, for now.  At the stages in ENDING a refusal ends the connection, because
there is no command that it could answer.
"""

from __future__ import annotations

from ..decision import ACCEPT, DEFER, DISCARD, DROP, REFUSALS
from ..facts import Reply
from ..smtp.replies import split_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..decision import Decision
    from ..facts import Ruling

CONNECT, HELO, CAPABILITIES, STARTTLS = "connect", "helo", "capabilities", "starttls"
AUTH, MAIL, RCPT, DATA = "auth", "mail", "rcpt", "data"
HEADER, BODY, DATA_POST, QUEUE = "header", "body", "data_post", "queue"
QUEUE_PRE, QUEUE_FAILED = "queue_pre", "queue_failed"
UNKNOWN, OK, DENY, RESET, DISCONNECT = "unknown", "ok", "deny", "reset", "disconnect"

#: In the order in which a session comes to them.
STAGES = (
    CONNECT, HELO, CAPABILITIES, STARTTLS, AUTH, MAIL, RCPT, DATA, HEADER, BODY, DATA_POST, QUEUE,
    QUEUE_PRE, QUEUE_FAILED, UNKNOWN, OK, DENY, RESET, DISCONNECT,
)  # fmt: skip

REPLIES = {
    CONNECT: (554, 421),
    HELO: (550, 450),
    STARTTLS: (554, 421),
    AUTH: (535, 454),
    MAIL: (550, 451),
    RCPT: (550, 451),
    DATA: (554, 451),
    HEADER: (554, 451),
    DATA_POST: (554, 451),
    QUEUE_PRE: (554, 451),
    UNKNOWN: (500, 451),
}
_OTHERS = (550, 451)  # a command of a plugin's own

ENDING = (CONNECT, STARTTLS)
#: A refusal at one of these may be postponed to RCPT or to DATA.
POSTPONED = (CONNECT, HELO, STARTTLS, MAIL, RCPT)
#: What plugins are only told of.
TOLD = (QUEUE_FAILED, OK, DENY, RESET, DISCONNECT)
#: What belongs to the transaction under way, and ends with it.
TRANSACTION = (MAIL, RCPT, DATA, HEADER, DATA_POST)

#: A decision at one of these may carry header lines.
CARRYING = (CONNECT, HELO, STARTTLS, AUTH, *TRANSACTION)

#: RFC 5321, 4.5.3.1.5: a reply line has 512 bytes, with code and CRLF.
LINE_LIMIT = 480
LINES_LIMIT = 20
_PRINTABLE = b"?" * 32 + bytes(range(32, 127)) + b"?" * 129  # 256 bytes: what each becomes


def fits(stage: str, decision: Decision, *facts: object) -> bool:
    """Can what a decision carries have an effect at this stage?  `facts` are what it is about."""
    held = stage == DATA_POST and getattr(facts[-1], "file", None) is not None
    late = stage not in CARRYING or (stage == DATA_POST and not held)
    return (
        not (late and (decision.header or decision.above))
        and (decision.recipient is None or stage == RCPT)
        and (decision.changes is None or held)
        and (decision.verdict != DISCARD or stage == DATA_POST)
        and (not decision.remove or stage == HEADER)
    )


def reply_to(ruling: Ruling) -> Reply:
    """The reply that a ruling makes: the one place where a decision becomes one."""
    stage, decision = ruling.stage, ruling.decision
    if decision.verdict == DROP or (decision.verdict in REFUSALS and stage in ENDING):
        end = "dropped-by-" + ruling.plugin
        return Reply(*render(stage, decision), end=end, ruling=ruling)
    reply = decision.replies.get(stage)
    if reply is None:
        reply = decision.replies[stage] = Reply(*render(stage, decision))
        reply.wire()  # so that it is made once, also for those that are made of it
    return reply.of(ruling)


def render(stage: str, decision: Decision) -> tuple[int, bytes, bytes]:
    """Code, status and text of the reply to a decision at a stage.

    A line feed in the text makes a reply of several lines; every other byte
    that is not printable ASCII becomes `?`.  A status that the text has
    itself, at its end, counts.
    """
    for_good, for_now = REPLIES.get(stage, _OTHERS)
    usual = {ACCEPT: 250, DEFER: for_now, DROP: 421}.get(decision.verdict, for_good)
    code = decision.code or usual
    text = decision.text.rstrip(b"\n") or (b"ok" if code < 400 else b"refused")
    status = decision.status or (b"5.7.1" if code >= 500 else b"4.7.1")
    if code < 400:
        status = b""
    elif text.endswith(b")") and b"(#" in decision.text:
        text, status = split_status(text)
    lines = text.split(b"\n")[:LINES_LIMIT]
    return code, status, b"\n".join(line[:LINE_LIMIT].translate(_PRINTABLE) for line in lines)


def lines(decision: Decision) -> list[tuple[bool, bytes]]:
    """The header lines of a decision: (is it to stand above Received?, the line)."""
    above = [(True, line) for line in decision.above]
    return above + [(False, line) for line in decision.header]


def is_capability(line: object) -> bool:
    """Is it a line for the answer to EHLO?"""
    return (
        isinstance(line, bytes) and 0 < len(line) < 500 and all(32 <= byte < 127 for byte in line)
    )


#: class -> the names of its hooks: a warm process looks them up once.
_NAMES: dict[type, list[str]] = {}


def methods(plugin: object) -> dict[str, Callable[..., Any]]:
    """The public methods of a plugin: its hooks."""
    kind = type(plugin)
    if kind not in _NAMES:
        names = sorted({name for base in kind.__mro__[:-1] for name in vars(base)})
        found = {name: getattr(kind, name) for name in names if not name.startswith("_")}
        _NAMES[kind] = [
            name for name, what in found.items() if callable(what) and hasattr(what, "__get__")
        ]
    return {name: getattr(plugin, name) for name in _NAMES[kind]}


def forget() -> None:
    """Let go of all classes."""
    _NAMES.clear()
