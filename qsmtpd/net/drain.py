"""The end of a connection: what the client still sends is read and thrown away.

A connection that is closed with input unread, or that gets some afterwards, is
reset (RFC 1122, 4.2.2.13).  A client that is still sending then learns of the
reset, and never looks at the last reply.  So its side is let come to its end
before ours is closed, as HTTP servers do (RFC 9112, 9.6).  And a TLS helper may
drop what it has not yet passed on of ours when we are gone, as s6-tlsd-io does.
"""

from __future__ import annotations

import posix as os
import select
from stat import S_ISFIFO, S_ISSOCK
from time import monotonic

from .. import waits

SECONDS = 5.0
BYTES = 16 * 1024 * 1024
GRACE = 1.0  # seconds; from then on the minimum rate counts
CHUNK = 65536  # bytes per read
#: When time is over, what is there is read, in so many reads: we may have been stopped until then.
LATE = BYTES // CHUNK


def drain(input: int, output: int, rate: int) -> None:
    """Write no more to these two descriptors, which may be one; read to the end of the input.

    At most SECONDS, and then what is there, and BYTES, and no slower than `rate` (bytes
    per second; 0: any).  Raises nothing.  Of a file or a terminal nothing is read: what
    is left there is for others.
    """
    try:
        kind = os.fstat(input).st_mode
        if not (S_ISSOCK(kind) or S_ISFIFO(kind)):
            return
        _stop_writing(input, output)
        poll = select.poll()
        poll.register(input, select.POLLIN)
        start = monotonic()
        size, left = 0, LATE
        while size < BYTES and left:
            most = min(SECONDS, max(GRACE, size / rate)) if rate else SECONDS
            late = monotonic() >= start + most
            left -= late
            if not waits.wait(poll, start + most):
                if late:
                    return
                continue
            try:
                data = os.read(input, CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return
            size += len(data)
    except OSError:
        pass  # the client has gone


def _stop_writing(input: int, output: int) -> None:
    """Let the other side see the end of what we write.

    A descriptor that is only for writing is closed, which does nothing to
    others who have it.  Of a socket that is both, the writing side is shut down,
    for all who share it: after the last reply nobody has anything to say there.
    """
    one, other = os.fstat(input), os.fstat(output)
    if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino):
        os.close(output)
        return
    import _socket  # socket.py costs several milliseconds

    connection = _socket.socket(fileno=input)
    try:
        connection.shutdown(_socket.SHUT_WR)
    finally:
        connection.detach()
