"""Every reply that does not depend on the conversation, as a named constant.

Where qmail-smtpd has the reply, this is it, byte for byte (but for TIMEOUT's code);
those marked (ours) answer what it has no answer for.
"""

from __future__ import annotations

from ..decision import is_status
from ..facts import Reply


def _error(code: int, status: bytes, text: bytes, iana: bytes = b"") -> Reply:
    """One that counts as an error of the client: unknown commands, syntax, sequence.

    A refused recipient is none, nor is a 452.
    """
    return Reply(code, status, text, error=True, iana=iana)


def _last(end: str, code: int, status: bytes, text: bytes, iana: bytes = b"") -> Reply:
    """One that ends the session; `end` is the word for that in the log."""
    return Reply(code, status, text, end=end, iana=iana)


OK = Reply(250, b"", b"ok")
SENDER_OK = Reply(250, b"", b"ok", iana=b"2.1.0")
RECIPIENT_OK = Reply(250, b"", b"ok", iana=b"2.1.5")
FLUSHED = Reply(250, b"", b"flushed")
VRFY = Reply(252, b"", b"send some mail, i'll try my best")
HELP = Reply(214, b"", b"qsmtpd, an SMTP daemon for qmail-queue: see qsmtpd(8)")  # our name (ours)
GO_AHEAD = Reply(354, b"", b"go ahead")

UNIMPLEMENTED = _error(502, b"5.5.1", b"unimplemented")
SYNTAX = _error(555, b"5.5.4", b"syntax error")
MAIL_FIRST = _error(503, b"5.5.1", b"MAIL first")
RCPT_FIRST = _error(503, b"5.5.1", b"RCPT first")
LINE_TOO_LONG = _error(500, b"5.5.2", b"line too long")  # ours
AUTH_TOO_LONG = _error(500, b"5.5.2", b"line too long", b"5.5.6")  # ours
NUL = _error(501, b"5.5.2", b"NUL in command")  # ours
BAD_PARAMETER = _error(501, b"5.5.4", b"malformed parameter")  # ours
UTF8_ADDRESS = _error(553, b"5.6.7", b"malformed internationalized address")  # ours
UTF8_HEADER = Reply(550, b"5.6.9", b"sorry, UTF-8 header cannot be passed on to all recipients")

IN_CHUNKS = _error(503, b"5.5.1", b"a message in chunks is under way: BDAT or RSET")  # ours
CHUNK_FAILED = _error(503, b"5.5.1", b"a chunk was refused before: RSET")  # ours
BAD_CHUNK = _last("bdat-syntax", 501, b"5.5.4", b"no size of a chunk")  # ours

TLS_READY = Reply(220, b"5.7.0", b"Ready to start TLS", iana=b"2.0.0")  # SPAMCONTROL's
NO_PARAMETERS = _error(501, b"5.5.4", b"no parameters allowed")  # ours
TLS_ACTIVE = _error(503, b"5.5.1", b"TLS is active already")  # ours
TLS_IN_TRANSACTION = _error(503, b"5.5.1", b"no STARTTLS during mail transaction")  # ours
TLS_PIPELINED = _last("starttls-injection", 503, b"5.5.1", b"nothing may follow STARTTLS")  # ours
TLS_UNAVAILABLE = Reply(454, b"5.7.3", b"TLS not available due to temporary reason", iana=b"4.7.0")
TLS_REQUIRED = _error(530, b"5.7.0", b"Must issue a STARTTLS command first")  # RFC 3207, 4
CERTIFICATE_REQUIRED = _error(530, b"5.7.0", b"client certificate required")  # ours

AUTH_OK = Reply(235, b"2.0.0", b"ok, go ahead", iana=b"2.7.0")
AUTH_FAILED = _error(535, b"5.7.1", b"authentication failed", b"5.7.8")
AUTH_TEMPORARY = Reply(454, b"4.3.0", b"problem with child and I can't auth", iana=b"4.7.0")
AUTH_CANCELLED = _error(501, b"5.0.0", b"auth exchange canceled", b"5.7.0")
AUTH_MALFORMED = _error(501, b"5.5.4", b"malformed auth input", b"5.5.2")
AUTH_AGAIN = _error(503, b"5.5.0", b"you're already authenticated", b"5.5.1")
AUTH_IN_TRANSACTION = _error(503, b"5.5.0", b"no auth during mail transaction", b"5.5.1")
AUTH_UNKNOWN = _error(504, b"5.5.1", b"auth type unimplemented", b"5.5.4")
AUTH_NEEDS_TLS = _error(538, b"5.3.3", b"auth not available without TLS", b"5.7.11")
AUTH_REQUIRED = _error(530, b"5.7.1", b"Authorization required", b"5.7.0")
TOO_MANY_FAILURES = _last(
    "auth-failures", 421, b"4.7.0", b"too many authentication failures"
)  # ours

TOO_MANY_HOPS = Reply(554, b"5.4.6", b"too many hops, this message is looping")
TOO_BIG = Reply(552, b"5.3.4", b"sorry, that message size exceeds my databytes limit")
TOO_MANY_RECIPIENTS = Reply(452, b"4.5.3", b"sorry, too many recipients")  # SPAMCONTROL's

BARE_LF = _last("bare-lf", 451, b"", b"See https://cr.yp.to/docs/smtplf.html.", b"4.5.2")
BARE_LF_IN_CHUNK = Reply(BARE_LF.code, b"", BARE_LF.text, iana=BARE_LF.iana)
# qmail-smtpd's is 451, but many clients know only 421 for the end of the connection
# (RFC 5321, 4.2.3).
TIMEOUT = _last("timeout", 421, b"4.4.2", b"timeout")
OUT_OF_MEMORY = _last("memory", 421, b"4.3.0", b"out of memory")
NO_CONTROLS = _last("control", 421, b"4.3.0", b"unable to read controls")
TOO_MANY_ERRORS = _last("errors", 421, b"4.7.0", b"too many errors")  # ours
SESSION_OVER = _last("session-limit", 421, b"4.4.2", b"session time limit reached")  # ours
SHUTDOWN = _last("shutdown", 421, b"4.3.2", b"shutting down, try again later")  # ours
NOT_SMTP = _last("not-smtp-http", 421, b"4.5.0", b"this is an SMTP server")  # ours
TROUBLE = _last("trouble", 421, b"4.3.0", b"internal trouble, try again later")  # ours
PLUGIN_HANGS = _last("plugin-hangs", 421, b"4.3.0", b"policy trouble, try again later")  # ours
PLUGIN_TROUBLE = Reply(451, b"4.3.0", b"policy trouble, try again later")  # ours
SPOOL_TROUBLE = Reply(451, b"4.3.0", b"trouble with the spool")  # ours

QUEUE_PIPES = Reply(451, b"4.3.0", b"qqt failure")
QUEUE_EXEC = Reply(451, b"4.3.0", b"unable to exec qq")


def with_status(code: int, text: bytes) -> Reply:
    """A reply of a text that may end in its own status, as those of queue programs do."""
    text, status = split_status(text)
    return Reply(code, status, text)


def split_status(text: bytes) -> tuple[bytes, bytes]:
    """`text (#5.7.1)` -> the text, the status; b"" where there is none (RFC 3463, 2)."""
    before, mark, status = text.rpartition(b" (#")
    if mark and status.endswith(b")") and is_status(status[:-1]):
        return before, status[:-1]
    return text, b""
