"""A Redis server of a test's own, as Debian has it: on a UNIX socket and on a loopback port."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from harness import needs, wait_for
from ports import free_port


class RedisServer:
    """Runs within a with statement; kill() and start() in it as a test wants."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.path, self.port = folder / "redis.sock", free_port()
        self._folder = folder
        self._options = options
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            *(needs("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.path), "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", *self._options),
        ]
        with open(self._folder / "redis.log", "ab") as log:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log)
        wait_for(lambda: b"PONG" in self.say("PING") or b"NOAUTH" in self.say("PING"))

    def say(self, *words: str) -> bytes:
        """What the server answers to this, by its own client."""
        command = [needs("redis-cli"), "-s", str(self.path), *words]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        return done.stdout

    def signal(self, number: int) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
