"""A home whose sessions are the second ones of a process of qsmtpd-server."""

from __future__ import annotations

import re

from client import Client
from harness import Home, wait_for
from listeners import Server, make_rules
from run import Run

#: Who comes first, with other rights.
OTHER = "127.0.0.9"


class WarmHome(Home):
    """run() and talk() are those of Home, but for this."""

    server: Server | None = None

    def run(  # type: ignore[override]  # what all that use it give
        self, data: bytes, *arguments: str, over: str, dribble: bool, **environ: str | None
    ) -> Run:
        with self.talk(*arguments, first=data, **environ) as second:
            second.send(data)
            second.end_input()
            return second.ended()

    def talk(  # type: ignore[override]
        self, *arguments: str, first: bytes = b"EHLO x\r\nQUIT\r\n", **environ: str | None
    ) -> Second:
        """The second session, when the first has said all this."""
        self.arguments = list(arguments)
        full = self._full(environ)
        facts = {name: value for name, value in full.items() if name.startswith("TCP")}
        rule = "".join(f',{name}="{value}"' for name, value in facts.items())
        cdb = make_rules(
            self.path / "rules.cdb", f'{OTHER}:allow{rule},RELAYCLIENT=""', f":allow{rule}"
        )
        before, self.environ = self.environ, full
        self.server = server = Server(self, "-c", "1", "--sessions", "100", "-x", str(cdb))
        self.environ = before
        with server.client(OTHER) as client:
            client.send(first)
            client.end_input()
            client.rest()
        wait_for(lambda: server.busy() == 0 and server.events("session"))
        wait_for(lambda: not list(self.spool.glob("new.*")))
        self.clear()
        for path in self.path.glob("store*"):  # what filters remember is not of a process
            path.unlink()
        return Second(server)

    def end(self) -> None:
        if self.server is not None:
            self.server.__exit__()
        super().end()


class Second(Client):
    """That client; its end is that of the session."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = len(server.log())
        super().__init__(Client.connect(server.port).socket)

    def ended(self) -> Run:
        """What is left to read, and how the session has ended."""
        out = b"" if self.closed else self.rest()
        self.close()
        server, before = self._server, self._before
        wait_for(lambda: "event=session " in server.log()[before:])
        log = server.log()[before:]
        pid = re.findall(r"(?m)^event=session pid=(\d+)", log)[-1]
        if int(pid) == server.pid:  # it had nobody else
            return Run(out, log, 1, [])
        end = re.compile(rf"(?m)^qsmtpd-server: end {pid} status (\d+)$")
        (status,) = wait_for(lambda: end.findall(server.log()[before:]))
        return Run(out, server.log()[before:], int(status) >> 8, [])
