"""A reply as QMTP and QMQP say it: K, Z or D, and a text (https://cr.yp.to/proto/qmtp.txt)."""

from __future__ import annotations

from ..facts import Reply

# Those of qmail-qmtpd and qmail-qmqpd, of which SMTP has none like them.
BAD_SENDER = Reply(550, b"5.1.7", b"unacceptable sender")
BAD_RECIPIENT = Reply(550, b"5.1.3", b"sorry, I can't handle that recipient")
BAD_ADDRESS = Reply(550, b"5.1.3", b"sorry, I can't accept addresses like that")
# Ours.
BAD_MESSAGE = Reply(554, b"5.6.0", b"the message begins neither with LF nor with CR")
NO_RECIPIENT = Reply(554, b"5.5.1", b"sorry, there is no recipient")
TOO_MANY_FOR_ONE = Reply(550, b"5.5.3", b"sorry, too many recipients")
NO_TLS = Reply(550, b"5.7.0", b"sorry, TLS is required")
# Not for good: a list that is wrong is no reason to give a message back.
NOT_LISTED = Reply(
    450, b"4.7.1", b"sorry, you are not one of the clients of this server", end="not-listed"
)


def verdict(reply: Reply) -> bytes:
    """`K…`: it is taken; `Z…`: it is not, for now; `D…`: for good.  One line of ASCII."""
    kind = b"K" if not reply.refused else b"Z" if reply.temporary else b"D"
    text = b" ".join(reply.text.split(b"\n"))
    return b"%b%b (#%b)" % (kind, text, reply.status) if reply.status else kind + text
