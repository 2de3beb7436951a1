"""folder: puts each message into a folder, as the back end: the example of qsmtpd-plugins(7).

Configuration: folder=, the directory; how=, what to do wrong (for a test).
Replies: none of its own.
Log keys: none.
"""

from __future__ import annotations

import os
import time

from qsmtpd.child.queue import Verdict


class Plugin:
    def __init__(self, settings):
        self._folder = settings.line(None, "FOLDER")
        self._how = settings.line(None, "HOW")

    def queue(self, client, envelope):
        return Delivery(self._folder, self._how)


class Delivery:
    def __init__(self, folder, how):
        self._how = how
        self.pid = b"7" if how == b"pid" else os.getpid()
        self._path = folder + b"/tmp/%d" % time.monotonic_ns()
        self._stream = open(self._path, "xb")
        if how == b"no-commit":
            self.commit = None

    def _perhaps(self, when):
        if self._how == b"raise-in-" + when:
            raise OSError("no space left, say")
        if self._how == b"doze-in-" + when:
            time.sleep(600)
        while self._how == b"swallow-in-" + when:
            try:
                time.sleep(600)
            except BaseException:
                pass

    def feed(self, data):
        self._perhaps(b"feed")
        self._stream.write(data)

    def commit(self, sender, recipients):
        self._perhaps(b"commit")
        if self._how == b"refuse":
            return Verdict(False, b"no room\r\n250 ok (#4.2.2)", exit="full")
        if self._how == b"refuse-for-good":
            return Verdict(False, b"never (#5.2.2)", permanent=True, exit="full")
        if self._how == b"nonsense":
            return 0
        if self._how == b"none":
            return None
        if self._how == b"text":
            return Verdict(False, "text", exit="x")
        envelope = b"F%b\0" % sender + b"".join(b"T%b\0" % to for to in recipients)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        new = b"/new/".join(self._path.rsplit(b"/tmp/", 1))
        with open(self._path + b".envelope", "xb") as stream:
            stream.write(envelope)
        os.rename(self._path + b".envelope", new + b".envelope")
        os.rename(self._path, new)
        return Verdict(True, exit="0")

    def abort(self):
        self._perhaps(b"abort")
        self._stream.close()
        if os.path.exists(self._path):
            os.unlink(self._path)
