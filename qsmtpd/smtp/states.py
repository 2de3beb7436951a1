"""The order of commands, as data.

A session is in one of five states.  REFUSALS says which verb is refused in
which state, and how; a verb that is not named there is allowed.  NEXT says
where an allowed verb leads when it succeeds; a verb that is not named there
changes nothing.  As in qmail-smtpd, HELO is not needed, and MAIL may be given
again: it starts anew.
"""

from __future__ import annotations

from . import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Reply

IDLE = "idle"  # no transaction
SENDER = "sender"  # MAIL was accepted
RECIPIENT = "recipient"  # and so was at least one RCPT
CHUNKS = "chunks"  # and so was a BDAT, and not the last one
FAILED = "failed"  # a BDAT was refused, and the client may not know it yet

_IN_CHUNKS = {
    b"MAIL": replies.IN_CHUNKS,
    b"RCPT": replies.IN_CHUNKS,
    b"DATA": replies.IN_CHUNKS,
    b"STARTTLS": replies.TLS_IN_TRANSACTION,
    b"AUTH": replies.AUTH_IN_TRANSACTION,
}

REFUSALS: dict[str, dict[bytes, Reply]] = {
    IDLE: {
        b"RCPT": replies.MAIL_FIRST,
        b"DATA": replies.MAIL_FIRST,
        b"BDAT": replies.MAIL_FIRST,
    },
    SENDER: {
        b"DATA": replies.RCPT_FIRST,
        b"BDAT": replies.RCPT_FIRST,
        b"STARTTLS": replies.TLS_IN_TRANSACTION,
        b"AUTH": replies.AUTH_IN_TRANSACTION,
    },
    RECIPIENT: {
        b"STARTTLS": replies.TLS_IN_TRANSACTION,
        b"AUTH": replies.AUTH_IN_TRANSACTION,
    },
    CHUNKS: _IN_CHUNKS,
    FAILED: {**_IN_CHUNKS, b"BDAT": replies.CHUNK_FAILED},
}

NEXT: dict[bytes, str] = {
    b"HELO": IDLE,
    b"EHLO": IDLE,
    b"RSET": IDLE,
    b"MAIL": SENDER,
    b"RCPT": RECIPIENT,
    b"DATA": IDLE,
}


def after_chunk(state: str, refused: bool, last: bool) -> str:
    """Where a BDAT leads, whatever became of it (RFC 3030, 2).

    Chunks that were sent before the client could know of a refusal are refused as
    well.  With the last one the transaction is over, or a pipelined group would
    take the next message for more of this one.
    """
    if last or state == IDLE:
        return IDLE
    return FAILED if refused else CHUNKS


#: Verbs that end the transaction under way as soon as they are allowed, even
#: when they then fail, and also when their line is too long or holds a NUL: no
#: later RCPT or DATA can meet half a transaction.
RESETS = frozenset((b"HELO", b"EHLO", b"RSET", b"MAIL", b"DATA"))

#: Verbs the replies to which have no enhanced status code, as the greeting (RFC 2034, 3).
GREETINGS = frozenset((b"HELO", b"EHLO"))

#: Verbs that do nothing for the mail; too many of them count as errors.
JUNK = frozenset((b"NOOP", b"RSET", b"VRFY", b"HELP"))

#: What is served without TLS where TLS is required (RFC 3207, 4).
WITHOUT_TLS = frozenset((b"NOOP", b"EHLO", b"HELO", b"STARTTLS", b"RSET", b"QUIT"))

#: The PROXY protocol, of which nothing is taken but where control/proxyhosts says so.
_PROXY: tuple[str, Reply | None] = ("not-smtp-proxy", None)
_HTTP = b"GET POST PUT HEAD DELETE OPTIONS PATCH TRACE CONNECT".split()

#: How other protocols begin: the end of the session for the log, and what we say
#: before we close.  TLS (RFC 8446, 5.1: a handshake record of version 3.x) and SSH
#: (RFC 4253, 4.2) do not speak in lines.  A browser can be made to send mail
#: commands in the body of a request, so that is not waited for.
FOREIGN_PROTOCOLS: dict[bytes, tuple[str, Reply | None]] = {
    b"\x16\x03": ("not-smtp-tls", None),
    b"SSH-": ("not-smtp-ssh", None),
    b"PROXY ": _PROXY,
    b"\r\n\r\n\0\r\nQUIT\n": _PROXY,
    **{verb + b" ": ("not-smtp-http", replies.NOT_SMTP) for verb in _HTTP},
}

#: The same by their first bytes, as one looks for them.
FOREIGN_BY_FIRST: dict[int, list[bytes]] = {}
for _prefix in FOREIGN_PROTOCOLS:
    FOREIGN_BY_FIRST.setdefault(_prefix[0], []).append(_prefix)

#: The third line of the PROXY protocol's signature: seen so where it comes in pieces, for
#: who sends an empty line is answered, and not waited for.
SIGNATURE_LINE = b"\0\r\n"
PROXY_END = _PROXY[0]

#: Verbs whose success plugins may want to know of, and the stage that it is of.
OUTCOMES = {
    b"HELO": "helo",
    b"EHLO": "helo",
    b"MAIL": "mail",
    b"RCPT": "rcpt",
    b"DATA": "data",
    b"BDAT": "data",
    b"AUTH": "auth",
    b"STARTTLS": "starttls",
}
#: Every verb of ours: plugins can bring others.
VERBS = frozenset((*NEXT, *OUTCOMES, *JUNK, b"QUIT"))

#: Verbs that the log calls by their names, whether we have them or not: who asks for
#: AUTH where there is none is guessing.  These are of RFC 821 and 5321, of registered
#: extensions and of LMTP (RFC 2033), of sendmail, Postfix and Exchange.
KNOWN = VERBS.union(
    b"EXPN SEND SOML SAML TURN ETRN ATRN BDAT BURL LHLO"
    b" VERB ONEX XUSR XADR XSTA XCIR XGEN XCLIENT XFORWARD XEXCH50 X-EXPS X-LINK2STATE".split()
)
