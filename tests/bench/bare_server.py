"""The floor of a server in Python: bare_server.py port queue-program

Four processes that accept by themselves and know no limit, no error, no log and
no setting.  The client has to wait for each reply.
"""

from __future__ import annotations

import os
import socket
import sys

REPLIES = {
    b"EHLO": b"250 mx.example\r\n",
    b"HELO": b"250 mx.example\r\n",
    b"MAIL": b"250 ok\r\n",
    b"RCPT": b"250 ok\r\n",
    b"DATA": b"354 go ahead\r\n",
    b"QUIT": b"221 mx.example\r\n",
}


def serve(listener: socket.socket, queue: str) -> None:
    """Sessions for ever."""
    environ = dict(os.environ)
    while True:
        client, _ = listener.accept()
        with client:
            session(client, queue, environ)


def session(client: socket.socket, queue: str, environ: dict[str, str]) -> None:
    """One, until QUIT or the end."""
    client.send(b"220 mx.example ESMTP\r\n")
    envelope = b""
    while line := client.recv(65536):
        verb = line[:4].upper()
        reply = REPLIES.get(verb, b"500 unknown\r\n")
        if verb == b"MAIL":
            envelope = b"F%b\0" % address(line)
        elif verb == b"RCPT" and b"@ok.example>" not in line:
            reply = b"553 not here\r\n"
        elif verb == b"RCPT":
            envelope += b"T%b\0" % address(line)
        client.send(reply)
        if verb == b"DATA":
            text = message(client).removesuffix(b".\r\n").replace(b"\r\n", b"\n")
            queued = hand_over(queue, environ, b"Received: x\n" + text, envelope + b"\0")
            client.send(b"250 ok\r\n" if queued else b"451 no\r\n")
        elif verb == b"QUIT":
            return


def message(client: socket.socket) -> bytes:
    """All of it, with the end of data."""
    parts, end = [], b"\r\n"
    while end != b"\r\n.\r\n":
        parts.append(client.recv(65536))
        if not parts[-1]:
            break
        end = (end + parts[-1])[-5:]
    return b"".join(parts)


def address(line: bytes) -> bytes:
    """What stands between the angle brackets."""
    return line.partition(b"<")[2].partition(b">")[0]


def hand_over(queue: str, environ: dict[str, str], text: bytes, envelope: bytes) -> bool:
    """Did the queue program take it?"""
    message, writer = os.pipe()
    addresses, other_writer = os.pipe()
    places = [(os.POSIX_SPAWN_DUP2, message, 0), (os.POSIX_SPAWN_DUP2, addresses, 1)]
    pid = os.posix_spawn(queue, [queue], environ, file_actions=places)
    os.close(message)
    os.close(addresses)
    for pipe, data in ((writer, text), (other_writer, envelope)):
        view = memoryview(data)
        while view:
            view = view[os.write(pipe, view) :]
        os.close(pipe)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Listen on 127.0.0.1, and serve with four processes."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=200)
    for _ in range(3):
        if os.fork() == 0:
            break
    serve(listener, sys.argv[2])


if __name__ == "__main__":
    main()
