"""XOAUTH2 (Google's; Outlook and Thunderbird send it, too): user=NAME ^A auth=Bearer TOKEN ^A ^A.

https://developers.google.com/workspace/gmail/imap/xoauth2-protocol
"""

from __future__ import annotations

from . import Answer, Context, Malformed, bearer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Exchange

REASON = b'{"status":"401","schemes":"bearer"}'


def exchange(initial: bytes | None, context: Context) -> Exchange:
    response = (yield b"") if initial is None else initial
    head, separator, text = response.partition(b"\1")
    said = bearer.fields(text)
    if not separator or not head.startswith(b"user=") or said.keys() != {b"auth"}:
        raise Malformed
    answer: Answer = yield from bearer.judge(head[5:], said[b"auth"], REASON)
    return answer
