"""qsmtpd-server: a small UCSPI server with qsmtpd built in.

It does tcpserver's job for one program: it listens, and for each connection
forks a process that already has everything imported.  That process sets the
variables that tcpserver would set and serves the client as the cold child
does; it serves one connection and exits.
"""

from __future__ import annotations

import getopt
import os
import select
import signal
import socket
import time

from . import __version__
from . import main as child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

USAGE = """\
usage: qsmtpd-server [-1qQv] [-b backlog] [-c limit] [-l localname] host port
                     [checkpassword-program subprogram ...]
"""
#: Seconds to wait when there is no descriptor or no process to be had.
BREATHER = 1.0


class Options:
    """The command line, in tcpserver's letters.  Raises getopt.GetoptError."""

    def __init__(self, arguments: list[str]) -> None:
        self.verbose = 1
        self.print_port = False
        self.backlog = 20
        self.limit = 40
        self.local_name: str | None = None
        pairs, rest = getopt.getopt(arguments, "1qQvb:c:l:")
        for option, value in pairs:
            if option == "-1":
                self.print_port = True
            elif option in ("-q", "-Q", "-v"):
                self.verbose = {"-q": 0, "-Q": 1, "-v": 2}[option]
            elif option == "-b":
                self.backlog = _number(option, value)
            elif option == "-c":
                self.limit = max(1, _number(option, value))
            else:
                self.local_name = value
        if len(rest) < 2:
            raise getopt.GetoptError("host and port are wanted")
        self.host = rest[0] if rest[0] != "0" else "0.0.0.0"
        self.port = str(_number("port", rest[1], 65535)) if rest[1].isdigit() else rest[1]
        self.checkpassword = [os.fsencode(word) for word in rest[2:]]


def _number(option: str, value: str, most: int = 999_999) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 7 and int(value) <= most):
        raise getopt.GetoptError(f"{option} wants a number of at most {most}")
    return int(value)


def main(arguments: list[str]) -> NoReturn:
    """The program.  Exits 111 if it cannot listen, 0 on TERM."""
    if arguments in (["--help"], ["--version"]):
        text = USAGE if arguments == ["--help"] else f"qsmtpd-server {__version__}\n"
        os.write(1, text.encode())
        os._exit(0)
    try:
        options = Options(arguments)
    except getopt.GetoptError as error:
        _say(f"usage error: {error}")
        os.write(2, USAGE.encode())
        os._exit(111)
    try:
        listener = _listen(options)
    except OSError as error:
        _say(f"fatal: cannot listen on {options.host} {options.port}: {error.strerror}")
        os._exit(111)
    child.rehearse(dict(os.environb), options.checkpassword)
    if options.print_port:
        os.write(1, b"%d\n" % listener.getsockname()[1])
    Server(listener, options).run()
    os._exit(0)


def _say(text: str) -> None:
    os.write(2, f"qsmtpd-server: {text}\n".encode("ascii", "backslashreplace"))


def _listen(options: Options) -> socket.socket:
    address = socket.getaddrinfo(
        options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(address[0], socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address[4])
    listener.listen(options.backlog)
    listener.setblocking(False)
    return listener


class Server:
    """Accepts connections and forks a child for each, at most `limit` at a time."""

    def __init__(self, listener: socket.socket, options: Options) -> None:
        self._listener = listener
        self._options = options
        self._children: set[int] = set()
        self._stopping = False
        # The handlers only have to interrupt poll(): the byte in this pipe does it.
        self._wakeup, self._waker = os.pipe()
        for fd in (self._wakeup, self._waker):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def run(self) -> None:
        """Serve until TERM; running sessions go on by themselves."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        self._status()
        while not self._stopping:
            if len(self._children) < self._options.limit:
                poll.register(self._listener, select.POLLIN)
            else:
                poll.register(self._listener, 0)
            ready = {fd for fd, _ in poll.poll()}
            if self._wakeup in ready:
                self._drain_wakeups()
                self._reap()
            if self._listener.fileno() in ready:
                self._accept()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _drain_wakeups(self) -> None:
        try:
            while os.read(self._wakeup, 512):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            if self._options.verbose > 1:
                _say(f"end {pid} status {status}")
            self._status()

    def _accept(self) -> None:
        try:
            client, remote = self._listener.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:  # no descriptor left: do not spin
            _say(f"warning: cannot accept: {error.strerror}")
            time.sleep(BREATHER)
            return
        try:
            pid = os.fork()
        except OSError as error:
            _say(f"warning: cannot fork: {error.strerror}")
            client.close()
            time.sleep(BREATHER)
            return
        if pid == 0:
            try:
                os._exit(self._serve(client, remote))
            finally:
                os._exit(111)
        client.close()
        self._children.add(pid)
        if self._options.verbose > 1:
            _say(f"pid {pid} from {remote[0]}")
        self._status()

    def _serve(self, client: socket.socket, remote: tuple[str, int]) -> int:
        """In the forked process: what tcpserver and the exec of qsmtpd would have done."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # A session that outlives the server must not hold its port: clients
        # would still be let in, and served by nobody.
        self._listener.close()
        os.close(self._wakeup)
        os.close(self._waker)
        environ = dict(os.environb)
        for name in (b"TCPREMOTEHOST", b"TCPREMOTEINFO", b"TCPLOCALHOST"):
            environ.pop(name, None)
        local = client.getsockname()
        environ[b"PROTO"] = b"TCP"
        environ[b"TCPLOCALIP"] = local[0].encode("ascii")
        environ[b"TCPLOCALPORT"] = b"%d" % local[1]
        environ[b"TCPREMOTEIP"] = remote[0].encode("ascii")
        environ[b"TCPREMOTEPORT"] = b"%d" % remote[1]
        if self._options.local_name is not None:
            environ[b"TCPLOCALHOST"] = os.fsencode(self._options.local_name)
        client.setblocking(True)
        for fd in (0, 1):
            os.dup2(client.fileno(), fd)
        client.close()
        return child.serve(environ, self._options.checkpassword)

    def _status(self) -> None:
        if self._options.verbose > 1:
            _say(f"status: {len(self._children)}/{self._options.limit}")
