"""Looks at every message in every way, as a stream, and counts."""

from __future__ import annotations

from qsmtpd.decision import DECLINED, decline


class Plugin:
    def __init__(self, settings):
        self.spool = settings.option("spool") == b"yes"
        self._log = settings.log
        self._seen = 0

    def header(self, client, envelope, message):
        self._seen = 0
        return DECLINED

    def body(self, client, envelope, chunk):
        self._seen += len(chunk)

    def data_post(self, client, envelope, message):
        spooled = 0
        if message.file is not None:
            while part := message.file.read(65536):
                spooled += len(part)
        self._log(seen=self._seen, spooled=spooled, size=message.size)
        return decline(header=[b"X-Seen: %d" % self._seen] if self.spool else [])
