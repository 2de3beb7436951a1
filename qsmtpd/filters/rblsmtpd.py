"""rblsmtpd: clients that tcpserver's rules, or a program in front, call bad.

Configuration: the variable RBLSMTPD, as rblsmtpd(1) takes it: empty, the client
may send; any other text is why it may not, for now, or for good where the text
begins with `-`, which is not part of it.  In it, %IP% is the client's address;
200 bytes of it are used.

What begins with `[RBL info]` is no refusal: so ucspi-tcp6's `rblsmtpd -i` says
that it has found the client in a list and let it pass.  What follows is then
added to the message, as SPAMCONTROL does, as `X-RBL-Info: text`.  With the
variable RBLHEADER set, and not `0`, that is done with every text, and nobody
is refused: what stands behind a `]` is taken, or all of it.
Replies: `451 text (#4.7.1)` or `553 text (#5.7.1)`, at RCPT.
Log keys: by=rblsmtpd.

rblsmtpd knows nothing of relaying, and RELAYCLIENT, which comes from the same
rules, does not help here either.  Who has shown in the session who it is, by
AUTH or by a certificate that may relay, is not asked.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, decline, defer, reject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope

INFO = b"[RBL info]"
LIMIT = 200  # bytes, as in rblsmtpd
NO_TEXT = b"sorry, I do not take mail from your host"
_PRINTABLE = bytes(byte if 32 <= byte < 127 else 0x3F for byte in range(256))


class Plugin:
    """Refuses a client, or marks its mail.  Raises ControlError."""

    __slots__ = ("_text", "_only_mark")
    immune = ("auth", "listed")

    def __init__(self, settings: Settings) -> None:
        self._text = settings.line(None, "RBLSMTPD") or b""
        header = settings.line(None, "RBLHEADER")
        self._only_mark = header is not None and header != b"0"

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if not self._text or (client.relay is not None and client.peer.relay is None):
            return DECLINED
        text = self._text.replace(b"%IP%", client.peer.ip).translate(_PRINTABLE)
        if self._only_mark or text.startswith(INFO):
            zone, bracket, info = text.removeprefix(b"-").partition(b"]")
            info = (info if bracket else zone).strip(b" ")[:LIMIT]
            return decline(header=[b"X-RBL-Info: " + info] if info else ())
        if text.startswith(b"-"):
            return reject(text[1:][:LIMIT] or NO_TEXT, 553, b"5.7.1")
        return defer(text[:LIMIT], 451, b"4.7.1")
