"""Every reply that does not depend on the conversation, as a named constant.

A reply is its line without CRLF.  Where qmail-smtpd has the reply, this is it,
byte for byte; those marked (ours) answer what it has no answer for.
"""

from __future__ import annotations

OK = b"250 ok"
FLUSHED = b"250 flushed"
VRFY = b"252 send some mail, i'll try my best"
HELP = b"214 qsmtpd, an SMTP daemon for qmail-queue: see qsmtpd(8)"  # names this project (ours)
GO_AHEAD = b"354 go ahead"

UNIMPLEMENTED = b"502 unimplemented (#5.5.1)"
SYNTAX = b"555 syntax error (#5.5.4)"
MAIL_FIRST = b"503 MAIL first (#5.5.1)"
RCPT_FIRST = b"503 RCPT first (#5.5.1)"
LINE_TOO_LONG = b"500 line too long (#5.5.2)"  # ours
NUL = b"501 NUL in command (#5.5.2)"  # ours
BAD_PARAMETER = b"501 malformed parameter (#5.5.4)"  # ours

TLS_READY = b"220 Ready to start TLS (#5.7.0)"  # SPAMCONTROL's
NO_PARAMETERS = b"501 no parameters allowed (#5.5.4)"  # ours
TLS_ACTIVE = b"503 TLS is active already (#5.5.1)"  # ours
TLS_IN_TRANSACTION = b"503 no STARTTLS during mail transaction (#5.5.1)"  # ours
TLS_PIPELINED = b"503 nothing may follow STARTTLS (#5.5.1)"  # ours
TLS_UNAVAILABLE = b"454 TLS not available due to temporary reason (#5.7.3)"
TLS_REQUIRED = b"530 Must issue a STARTTLS command first (#5.7.0)"  # RFC 3207, 4
CERTIFICATE_REQUIRED = b"530 client certificate required (#5.7.0)"  # ours

AUTH_OK = b"235 ok, go ahead (#2.0.0)"
AUTH_FAILED = b"535 authentication failed (#5.7.1)"
AUTH_TEMPORARY = b"454 problem with child and I can't auth (#4.3.0)"
AUTH_CANCELLED = b"501 auth exchange canceled (#5.0.0)"
AUTH_MALFORMED = b"501 malformed auth input (#5.5.4)"
AUTH_AGAIN = b"503 you're already authenticated (#5.5.0)"
AUTH_IN_TRANSACTION = b"503 no auth during mail transaction (#5.5.0)"
AUTH_UNKNOWN = b"504 auth type unimplemented (#5.5.1)"
AUTH_UNAVAILABLE = b"503 auth not available (#5.3.3)"
AUTH_NEEDS_TLS = b"538 auth not available without TLS (#5.3.3)"
AUTH_REQUIRED = b"530 Authorization required (#5.7.1)"
TOO_MANY_FAILURES = b"421 too many authentication failures (#4.7.0)"  # ours

TOO_MANY_HOPS = b"554 too many hops, this message is looping (#5.4.6)"
TOO_BIG = b"552 sorry, that message size exceeds my databytes limit (#5.3.4)"
TOO_MANY_RECIPIENTS = b"452 sorry, too many recipients (#4.5.3)"  # SPAMCONTROL's

BARE_LF = b"451 See https://cr.yp.to/docs/smtplf.html."
TIMEOUT = b"451 timeout (#4.4.2)"
OUT_OF_MEMORY = b"421 out of memory (#4.3.0)"
NO_CONTROLS = b"421 unable to read controls (#4.3.0)"
TOO_MANY_ERRORS = b"421 too many errors (#4.7.0)"  # ours
SESSION_OVER = b"421 session time limit reached (#4.4.2)"  # ours
NOT_SMTP = b"421 this is an SMTP server (#4.5.0)"  # ours
TROUBLE = b"421 internal trouble, try again later (#4.3.0)"  # ours
SPOOL_TROUBLE = b"451 trouble with the spool (#4.3.0)"  # ours
PLUGIN_HANGS = b"421 policy trouble, try again later (#4.3.0)"  # ours
PLUGIN_TROUBLE = b"451 policy trouble, try again later (#4.3.0)"  # ours

QUEUE_PIPES = b"451 qqt failure (#4.3.0)"
QUEUE_EXEC = b"451 unable to exec qq (#4.3.0)"

#: The replies that count as an error of the client: unknown commands, syntax,
#: sequence.  A refused recipient is none, nor is a 452.
ERRORS = frozenset(
    (
        UNIMPLEMENTED,
        SYNTAX,
        MAIL_FIRST,
        RCPT_FIRST,
        LINE_TOO_LONG,
        NUL,
        BAD_PARAMETER,
        NO_PARAMETERS,
        TLS_ACTIVE,
        TLS_IN_TRANSACTION,
        TLS_REQUIRED,
        CERTIFICATE_REQUIRED,
        AUTH_FAILED,
        AUTH_CANCELLED,
        AUTH_MALFORMED,
        AUTH_AGAIN,
        AUTH_IN_TRANSACTION,
        AUTH_UNKNOWN,
        AUTH_UNAVAILABLE,
        AUTH_NEEDS_TLS,
        AUTH_REQUIRED,
    )
)


def multiline(code: int, lines: list[bytes]) -> bytes:
    """One reply of several lines (RFC 5321, 4.2.1), without the last CRLF."""
    head = b"%d-" % code
    last = b"%d " % code + lines[-1]
    return b"\r\n".join([head + line for line in lines[:-1]] + [last])
