"""A mail transaction: a sender, recipients and a message, each with the reply to it.

For every protocol: how they come, and how replies are said, is for its conversation.
"""

from __future__ import annotations

from time import monotonic

from ..decision import ACCEPTED, DEFER, DISCARD, REFUSALS, REJECT, Decision
from ..facts import Envelope, Ruling
from ..policy import stages
from ..smtp import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.session import SessionSettings
    from ..facts import Client, Reply
    from ..log import Log
    from ..policy.hooks import Hooks
    from .data import Transfer

    Fields = dict[str, bytes | str | int]

#: Before there is a sender.
_NO_ENVELOPE = Envelope(b"")


class Transaction:
    """The one that is under way, or will be the next.

    Of the last question, `about` is what the log should say of it, and `logged` says
    that it has had its own line.  `text(reply)` is how the log has a reply.
    """

    __slots__ = (
        *("envelope", "about", "logged", "auth_unavailable"),
        *("_client", "_settings", "_hooks", "_log", "_text", "_observed", "_counters"),
    )

    def __init__(
        self,
        client: Client,
        settings: SessionSettings,
        hooks: Hooks,
        log: Log,
        text: Callable[[Reply], bytes],
    ) -> None:
        self.envelope = _NO_ENVELOPE
        self.about: Fields = {}
        self.logged = False
        self.auth_unavailable = False  # whoever says which mechanisms there are, cannot be reached
        self._client = client
        self._settings = settings
        self._hooks = hooks
        self._log = log
        self._text = text
        self._observed = hooks.order.observed
        self._counters = client.counters

    def judged(self, ruling: Ruling, reply: Reply) -> Reply:
        """The refusal that a ruling is, or this reply: with the ruling where somebody is told."""
        if ruling.decision.verdict in REFUSALS:
            return stages.reply_to(ruling)
        return reply.of(ruling) if self._observed else reply

    def refuses_all(self) -> Reply | None:
        """The refusal of every sender as long as the client is not known, or None."""
        if self._settings.auth.required and self._client.auth is None:
            return replies.AUTH_TEMPORARY if self.auth_unavailable else replies.AUTH_REQUIRED
        return None

    def mail(self, envelope: Envelope) -> Reply:
        """A new transaction, with this sender: the reply."""
        self.envelope = envelope
        sender = envelope.sender
        self.about = {"from": sender}
        ruling = self._hooks.ask(stages.MAIL, self._client, envelope, about=sender)
        return self.judged(ruling, replies.SENDER_OK)

    def rcpt(self, asked: bytes) -> Reply:
        """One more recipient: the reply."""
        self.about = {"to": asked}
        if len(self.envelope.recipients) >= self._settings.limits.recipients:
            reply = replies.TOO_MANY_RECIPIENTS
            return reply.of(Ruling(stages.RCPT, "", own_decision(reply), asked))
        self._counters.recipients += 1
        ruling, recipient = self._hooks.rcpt(self._client, self.envelope, asked)
        reply = self.judged(ruling, replies.RECIPIENT_OK)
        if reply.refused:
            self._counters.bad_recipients += not reply.temporary
        else:
            self.envelope.recipients.append(recipient)
        return reply

    def message(self, transfer: Transfer, reply: Reply) -> Reply:
        """What the reply to a message means for the session."""
        if not reply.refused:
            self._counters.messages += 1
            self._counters.forgive()
        if reply.ruling is None:
            how = str(transfer.fields.get("exit", "")).encode("ascii", "replace")
            reply = reply.of(Ruling(stages.QUEUE, "", own_decision(reply), detail=how))
        return reply

    def end(self) -> None:
        """It is over: whoever has a memory of it lets go."""
        self._hooks.forget(stages.TRANSACTION)
        self._hooks.notify(stages.RESET, self._client)

    def tell(self, reply: Reply, stage: str, about: bytes = b"") -> None:
        """Let the observers know of a reply to what this stage is asked of, as far as known."""
        ruling = reply.ruling
        # An acceptance by policy may have become a refusal since, as of a message by the queue.
        if ruling is None or (ruling.decision.verdict in REFUSALS) != reply.refused:
            ruling = Ruling(stage, "", own_decision(reply), about)
        self.tell_ruling(ruling, reply)

    def tell_ruling(self, ruling: Ruling, reply: Reply) -> None:
        """Let them know of a ruling, and of the reply that it has made."""
        ruling.answer = reply
        self._hooks.tell(self._client, ruling)

    # -- the log -----------------------------------------------------------

    def known(self, is_open: bool) -> Fields:
        """The log's fields of who sends what to whom, as far as that is known.

        `is_open`: there is a sender.
        """
        client = self._client
        known: Fields = {"helo": client.helo or b""}
        if client.protocol != b"SMTP":
            known = {"proto": client.protocol}
        if client.auth is not None:
            known["user"] = client.auth.user
        if is_open:
            known["from"] = self.envelope.sender
        return {**known, **self.about}

    def log_refusal(self, command: bytes | None, reply: Reply, is_open: bool) -> None:
        """The line event=refused."""
        ruling = reply.ruling
        by = None
        if ruling is not None and ruling.plugin and ruling.decision.verdict in REFUSALS:
            why = ": " + ruling.detail.decode("ascii", "replace") if ruling.detail else ""
            by = ruling.plugin + why
        known = self.known(is_open)
        if self._client.helo is None and command not in (b"MAIL", b"RCPT"):
            known.pop("helo", None)
        self._log.line("refused", command=command, reply=self._text(reply), by=by, **known)

    def log_message(self, transfer: Transfer, reply: Reply | None) -> None:
        """The line event=message; without a reply it was aborted."""
        fields = transfer.fields
        verdict = "aborted"
        if reply is not None:
            verdict = "refused" if reply.refused else "accepted"
            # What we say comes first: a line that is too long loses its end.
            fields = {"reply": self._text(reply), **fields}
            if reply.ruling is not None:
                fields["by"] = reply.ruling.plugin
                if reply.ruling.decision.verdict == DISCARD:
                    verdict = "discarded"
        fields["seconds"] = f"{monotonic() - transfer.started:.3f}"
        self.about = {"to": self.envelope.recipients[0]}
        self._log.line("message", verdict=verdict, **{**fields, **self.known(is_open=True)})
        self.logged = True


def own_decision(reply: Reply) -> Decision:
    """What a reply of qsmtpd itself decides."""
    if not reply.refused:
        return ACCEPTED
    return Decision(DEFER if reply.temporary else REJECT)
