"""aiosmtpd as a server: python3 aiosmtpd_server.py port queue-program certificate

As its documentation would have it, and a handler that does what the others do
with a message: it starts the queue program and answers by its exit status.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP, Envelope, Session


class Handler:
    """Hands each message to a queue program."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if not address.endswith("@ok.example"):
            return "553 not here"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        reader, writer = os.pipe()
        try:
            # fd 1 of the program is a pipe that it reads.
            program = await asyncio.create_subprocess_exec(
                self._queue, stdin=asyncio.subprocess.PIPE, stdout=reader
            )
        finally:
            os.close(reader)
        try:
            assert program.stdin is not None
            assert isinstance(envelope.content, bytes)
            program.stdin.write(envelope.content.replace(b"\r\n", b"\n"))
            await program.stdin.drain()
            program.stdin.close()
            fields = [f"F{envelope.mail_from}", *(f"T{to}" for to in envelope.rcpt_tos)]
            os.write(writer, "".join(field + "\0" for field in fields).encode() + b"\0")
        finally:
            os.close(writer)
        return "250 ok" if await program.wait() == 0 else "451 qq temporary problem"


async def serve(port: int, queue: str, certificate: str) -> None:
    """Listen on 127.0.0.1 and serve for ever."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    handler = Handler(queue)
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        return SMTP(
            handler,
            data_size_limit=2**30,
            hostname="mx.example",  # without, it looks up its own for every connection
            tls_context=context,
            loop=loop,
        )

    server = await loop.create_server(connection, "127.0.0.1", port, backlog=200)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.version_info < (3, 12):  # what later versions do by themselves, and faster
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
