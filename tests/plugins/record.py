"""Writes down in the log what it is asked, and with what."""

from __future__ import annotations

from qsmtpd.decision import DECLINED, accept


class Plugin:
    spool = True

    def __init__(self, settings):
        self._note = 0
        self._log = settings.log

    def _write(self, hook, client, **fields):
        self._note += 1
        self._log(
            hook=hook,
            note=self._note,
            peer=client.peer.ip,
            tls="yes" if client.tls else "no",
            user=client.auth.user if client.auth else None,
            relay=client.relay,
            helo=client.helo,
            esmtp="yes" if client.esmtp else "no",
            messages=client.counters.messages,
            **fields,
        )
        return DECLINED

    def connect(self, client):
        return self._write("connect", client)

    def helo(self, client, name):
        return self._write("helo", client, about=name)

    def capabilities(self, client):
        self._write("capabilities", client)
        return [b"XRECORD", b"XLIMIT 5"]

    def starttls(self, client):
        return self._write("starttls", client, about=client.tls.protocol)

    def auth(self, client, user, mechanism):
        return self._write("auth", client, about=user + b" " + mechanism)

    def mail(self, client, envelope):
        names = b",".join(sorted(envelope.parameters))
        return self._write("mail", client, about=envelope.sender, parameters=names)

    def rcpt(self, client, envelope, recipient):
        return self._write("rcpt", client, about=recipient, so_far=len(envelope.recipients))

    def data(self, client, envelope):
        return self._write("data", client, about=b",".join(envelope.recipients))

    def header(self, client, envelope, message):
        names = b",".join(name for name, _ in message.header)
        return self._write("header", client, about=names, subject=message.values(b"subject")[0])

    def body(self, client, envelope, chunk):
        self._write("body", client, about=chunk)

    def data_post(self, client, envelope, message):
        text = message.file.read()
        return self._write("data_post", client, about=text, size=message.size, hops=message.hops)

    def queue(self, client, envelope):
        self._write("queue", client)

    def queue_pre(self, client, envelope):
        return self._write("queue_pre", client, about=b",".join(envelope.recipients))

    def queue_failed(self, client, envelope):
        self._write("queue_failed", client, about=b",".join(envelope.recipients))

    def unknown(self, client, line):
        return self._write("unknown", client, about=line)

    def command_xnote(self, client, argument):
        self._write("command_xnote", client, about=argument)
        return accept(b"noted\nall of it")

    def ok(self, client, ruling):
        self._write("ok", client, about=ruling.stage, by=ruling.plugin, reply=ruling.reply)

    def deny(self, client, ruling):
        self._write("deny", client, about=ruling.stage, by=ruling.plugin, reply=ruling.reply)

    def reset(self, client):
        self._write("reset", client)

    def disconnect(self, client):
        self._write("disconnect", client)
