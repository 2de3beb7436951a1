"""Changes messages at data_post: options text=, sender=, to= (with commas), discard=, odd=.

`%n` in text= is a line end, `%m` the message as it was.
"""

from __future__ import annotations

from qsmtpd.decision import Changes, decline, discard


class Plugin:
    spool = True

    def __init__(self, settings):
        self._text = settings.option("text")
        self._sender = settings.option("sender")
        self._to = settings.option("to")
        self._discard = settings.option("discard")
        self._odd = settings.option("odd")
        self._early = settings.option("early")
        self._log = settings.log

    def header(self, client, envelope, message):
        return discard(b"too early") if self._early else decline()

    def data_post(self, client, envelope, message):
        lines = message.file.read().count(b"\n")
        self._log(subject=b"|".join(message.values(b"Subject")), lines=lines, size=message.size)
        if self._discard is not None:
            return discard(self._discard)
        if self._odd is not None:
            return decline(changes=Changes(message=message.file))
        new = None
        if self._text is not None:
            new = message.replacement()
            message.file.seek(0)
            before, mark, after = self._text.replace(b"%n", b"\n").partition(b"%m")
            new.write(before)
            if mark:
                while part := message.file.read(4096):
                    new.write(part)
            new.write(after)
        to = None if self._to is None else self._to.split(b",")
        return decline(changes=Changes(new, self._sender, to))
