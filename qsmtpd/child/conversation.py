"""A conversation with a program, in lines: it reads ours on descriptor 0, and writes its own on 1.

What it has to say in the end, it says by its exit status.
"""

from __future__ import annotations

import posix as os
import select
from time import monotonic

from .. import waits
from .spawn import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_INPUT, _OUTPUT = 0, 1  # the program's descriptors


class Conversation:
    """A running program.  Starting it raises OSError.

    `limit` is the maximum of a line of it, with the LF (bytes).  It is looked for
    in our PATH.  close() it in the end: what still runs is ended.
    """

    __slots__ = ("_process", "_to", "_from", "_heard", "_limit")

    def __init__(self, command: list[bytes], environ: Mapping[bytes, bytes], limit: int) -> None:
        self._heard = b""
        self._limit = limit
        its_input, self._to = os.pipe()
        ours = [its_input, self._to]
        try:
            self._from, its_output = os.pipe()
            ours += [self._from, its_output]
            places = {its_input: _INPUT, its_output: _OUTPUT}
            self._process = Process(command, environ, places, search=True)
        except OSError:
            for fd in ours:
                os.close(fd)
            raise
        os.close(its_input)
        os.close(its_output)
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def say(self, line: bytes) -> bool:
        """Send a line, which fits into a pipe; False where the program does not take it."""
        try:
            return os.write(self._to, line + b"\n") == len(line) + 1
        except OSError:  # it is gone, or has not read what came before
            return False

    def end_input(self) -> None:
        """It hears no more of us."""
        if self._to >= 0:
            os.close(self._to)
            self._to = -1

    def hear(self, deadline: float) -> bytes | None:
        """Its next line, without the LF; None at its end, at the deadline or beyond the limit.

        Raises Shutdown.
        """
        while b"\n" not in self._heard:
            if not self._read(deadline):
                return None
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def status(self, deadline: float) -> int | None:
        """Its exit status; None where it was killed or runs on."""
        if not self._process.wait(deadline, self._wait):
            return None
        status = self._process.status
        if status is None or status < 0 or os.WIFSIGNALED(status):
            return None
        return os.WEXITSTATUS(status)

    def close(self) -> None:
        """End it, if need be."""
        self.end_input()
        self._end_output()
        if not self._process.exited():
            self._process.end()
        self._process.close()

    def _wait(self, poll: select.poll, deadline: float) -> list[int]:
        ready = self._process.poll(poll, deadline)
        waits.check()
        return ready

    def _read(self, deadline: float) -> bool:
        """Read something more; False where there is nothing to be had."""
        poll = select.poll()
        while self._from >= 0 and len(self._heard) <= self._limit:
            waits.check()
            late = monotonic() >= deadline  # we may have been stopped: one look more
            poll.register(self._from, select.POLLIN)
            if not waits.wait(poll, deadline):
                if late:
                    return False
                continue
            try:
                # One more than the limit is as good as many.
                part = os.read(self._from, self._limit + 1 - len(self._heard))
            except BlockingIOError:
                continue
            except OSError:
                part = b""
            if not part:
                self._end_output()
                return False
            self._heard += part
            return True
        return False

    def _end_output(self) -> None:
        if self._from >= 0:
            os.close(self._from)
            self._from = -1
