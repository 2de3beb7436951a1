"""The master: accepts, applies rules and limits, hands out, counts, buries.

It never waits for anybody but in its one poll(), and it serves nobody itself.
What it counts it counts from the list of its living processes, so a process
that is killed cannot leave a wrong number behind.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
from time import monotonic

from ..facts import ControlError
from ..log import Log, log_trouble
from . import rules, status
from .client import Client, network, plain, variables
from .options import ERRORS, STATUS
from .worker import DONE, PACKED_LIMIT, drop, work

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from .worker import Stock
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call

#: How long to accept nothing where there is no descriptor or memory to be had (seconds).
BREATHER = 1.0
#: Wait so long before processes are forked ahead again, after one has died
#: unused: doubled each time, up to the second (seconds).
FIRST_WAIT, LONGEST_WAIT = 0.1, 30.0
#: A process for several connections is let go when idle for so long (seconds).
IDLE = 60.0
#: A trial of what is to be read anew has to be back by then (seconds): a plugin may take 30.
TRIAL_WAIT = 60.0
#: After the drain, how long processes may take from TERM to their end (seconds).
GRACE = 5.0
NO_PROCESS = b"421 no process for you now, try again later (#4.3.2)"
TOO_MANY = b"421 too many connections from your address (#4.7.0)"
#: accept() would fail again at once.  EINVAL: who shares a socket with us has shut it down.
_LASTING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL)


class Worker:
    """What the master knows of one of its processes.

    `client` is whom it serves, None while it is idle; `control` is the
    socket to it, None where it has nothing more to be told.  `dismissed`: we
    have told it to end.
    """

    __slots__ = ("pid", "client", "control", "used", "idle_since", "dismissed")

    def __init__(self, pid: int, client: str | None, control: socket.socket | None) -> None:
        self.pid = pid
        self.client = client
        self.control = control
        self.used = client is not None
        self.idle_since = monotonic()
        self.dismissed = False

    def dismiss(self) -> None:
        """Let it end: at once if it is idle, else after what it does now."""
        self.dismissed = True
        self.hang_up()

    def hang_up(self) -> None:
        """Neither tell it anything more nor listen to it."""
        if self.control is not None:
            self.control.close()
            self.control = None


class Trial:
    """A process that tries what HUP asks for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.deadline = monotonic() + TRIAL_WAIT


class Master:
    """Serves the listening sockets until TERM.

    `restock` makes what new processes take along; it is called again on HUP.
    """

    def __init__(self, listeners: list[socket.socket], restock: Callable[[], Stock]) -> None:
        self._listeners = listeners
        self._restock = restock
        self._stock = restock()
        self._options = self._stock.options
        self._workers: dict[int, Worker] = {}
        self._stopping = 0  # how often we were told to
        self._reload = False
        self._trial: Trial | None = None
        self._accept_again = 0.0  # no sooner
        self._spare_again = 0.0
        self._spare_wait = FIRST_WAIT
        # The handlers only have to interrupt poll(): the byte in this pipe does it.
        self._wakeup, self._waker = os.pipe()
        for fd in (self._wakeup, self._waker):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, self._on_hup)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_term)

    def run(self) -> None:
        """Serve until TERM, then see the running sessions to their end."""
        self._freeze()
        self._status()
        while not self._stopping:
            self._turn()
        self._drain()

    # -- the loop ----------------------------------------------------------

    def _turn(self) -> None:
        """Wait for something, and do it."""
        now = monotonic()
        self._look_after_trial(now)
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        full = self._busy() >= self._options.limit
        if not full and now >= self._accept_again:
            for listener in self._listeners:
                poll.register(listener, select.POLLIN)
        for worker in self._workers.values():
            if worker.control is not None:
                poll.register(worker.control, select.POLLIN)
        ready: set[int] = set()
        if self._options.spare:  # clients who wait go before processes for those who may come
            ready = {fd for fd, _ in poll.poll(0)}
        if not ready:
            if self._top_up(now):
                return
            ready = {fd for fd, _ in poll.poll(self._patience(now) * 1000)}
        if self._wakeup in ready:
            self._heed_signals()
        for worker in [w for w in self._workers.values() if w.control is not None]:
            if worker.control is not None and worker.control.fileno() in ready:
                self._hear(worker)
        for listener in self._listeners:
            if listener.fileno() in ready and not self._stopping:
                self._accept(listener)

    def _patience(self, now: float) -> float:
        """How long nothing has to be done by the clock (seconds)."""
        times = [t for t in (self._accept_again, self._spare_again) if t > now]
        idle = [worker.idle_since + IDLE for worker in self._surplus()]
        trial = [] if self._trial is None else [self._trial.deadline]
        return max(0.0, min([*times, *idle, *trial, now + 3600.0]) - now)

    def _heed_signals(self) -> None:
        try:
            while os.read(self._wakeup, 512):
                pass
        except BlockingIOError:
            pass
        self._bury()
        if self._reload and self._trial is None and not self._stopping:
            self._reload = False
            self._try_anew()

    # -- HUP ---------------------------------------------------------------

    def _try_anew(self) -> None:
        """Let another process try first what HUP asks for: a new plugin may hang, or end it."""
        try:
            pid = os.fork()
        except OSError as error:
            self._complain(f"cannot fork to read anew: {error.strerror}")
            return
        if pid == 0:
            try:
                self._leave(None)
                os.dup2(0, 2)  # if all is well it will be said again
                self._restock()
                os._exit(0)
            finally:
                os._exit(111)
        self._trial = Trial(pid)

    def _tried(self, code: int) -> None:
        """It has come back: with 0 there is nothing to be afraid of."""
        self._trial = None
        if self._stopping:
            return
        if code != 0:
            status.say(f"warning: what was to be read anew ends a process: status {code}")
            return
        status.say("reading controls, plugins and certificates anew")
        gc.enable()
        gc.unfreeze()  # what is not wanted any more is to go, as a plugin's old module
        self._stock = self._restock()
        self._freeze()
        for worker in self._workers.values():
            worker.dismiss()

    def _look_after_trial(self, now: float) -> None:
        if self._trial is not None and now >= self._trial.deadline:
            status.say("warning: what was to be read anew hangs")
            os.kill(self._trial.pid, signal.SIGKILL)
            self._trial.deadline = now + TRIAL_WAIT

    def _freeze(self) -> None:
        """Keep the collector off what exists: looking at it would copy it in each process."""
        gc.collect()
        gc.freeze()
        gc.disable()  # the master itself makes no cycles

    # -- the processes -----------------------------------------------------

    def _busy(self) -> int:
        return sum(worker.client is not None for worker in self._workers.values())

    def _bury(self) -> None:
        while self._workers or self._trial is not None:
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if self._trial is not None and pid == self._trial.pid:
                self._tried(code)
                continue
            worker = self._workers.pop(pid, None)
            if worker is None:
                continue
            self._lose(worker)
            if worker.client is not None:
                self._ended(pid, code)
            elif not worker.used and not worker.dismissed:
                status.say(f"warning: process {pid} died unused: status {code}")

    def _lose(self, worker: Worker) -> None:
        """It is at its end, though perhaps it cannot be buried yet (as under a debugger)."""
        if worker.control is not None and not worker.used:
            # It died before it had anything to do, and would do so again.
            self._spare_again = monotonic() + self._spare_wait
            self._spare_wait = min(2 * self._spare_wait, LONGEST_WAIT)
        worker.hang_up()  # else poll() would return at once until then

    def _ended(self, pid: int, code: int) -> None:
        if self._options.verbose >= STATUS:
            status.say(f"end {pid} status {code}")
        self._status()

    def _hear(self, worker: Worker) -> None:
        """A worker is done with its client, or at its own end."""
        assert worker.control is not None
        try:
            heard = worker.control.recv(16)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not (heard.startswith(DONE) and heard[1:].isdigit()):
            self._lose(worker)  # it has ended, or makes no sense any more
            return
        worker.client = None
        worker.idle_since = monotonic()
        self._ended(worker.pid, int(heard[1:]) << 8)

    def _top_up(self, now: float) -> bool:
        """Have some processes ready, but not for ever what a rush has left.  Any new ones?"""
        changed = False
        for worker in self._surplus():
            if now >= worker.idle_since + IDLE:
                worker.dismiss()
                changed = True
        if now >= self._spare_again and not self._free():
            # All at once: what the master writes to between two forks is copied,
            # and these share one copy.
            for _ in range(self._options.spare):
                if self._fork() is None:
                    self._spare_again = now + BREATHER
                    break
                changed = True
        return changed

    def _free(self) -> list[Worker]:
        """The processes that wait for a client."""
        return [w for w in self._workers.values() if w.client is None and w.control is not None]

    def _surplus(self) -> list[Worker]:
        """Those of them that a rush has left."""
        # What is kept is the unused ones, then the latest used.
        free = sorted(self._free(), key=lambda w: (not w.used, w.idle_since), reverse=True)
        return [worker for worker in free[self._options.spare :] if worker.used]

    def _fork(self, client: Client | None = None, net: str | None = None) -> Worker | None:
        """A new process, for this client or for whoever comes; None where there is none."""
        ours: socket.socket | None = None
        theirs: socket.socket | None = None
        try:
            if client is None or self._options.sessions > 1:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.setblocking(False)
            pid = os.fork()
        except OSError as error:
            self._complain(f"cannot fork: {error.strerror}")
            for end in (ours, theirs):
                if end is not None:
                    end.close()
            return None
        if pid == 0:
            try:
                self._leave(ours)
                os._exit(work(self._stock, client, theirs))
            except Exception as error:
                log_trouble(Log(2, pid=os.getpid()), error)
            finally:
                os._exit(111)
        if theirs is not None:
            theirs.close()
        worker = Worker(pid, net, ours)
        self._workers[pid] = worker
        return worker

    def _leave(self, ours: socket.socket | None) -> None:
        """In the new process: close what is the master's.

        A session that outlives the master must not hold its port, and no
        process the master's end of a control socket: else the other process
        would not notice the master's death.
        """
        signal.set_wakeup_fd(-1)
        os.close(self._wakeup)
        os.close(self._waker)
        for listener in self._listeners:
            listener.close()
        if ours is not None:
            ours.close()
        for worker in self._workers.values():
            worker.dismiss()

    # -- connections -------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        if self._busy() >= self._options.limit:
            return
        try:
            connection, remote = listener.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:
            self._complain(f"cannot accept: {error.strerror}")
            if error.errno in _LASTING:  # else it is this one connection's trouble
                self._accept_again = monotonic() + BREATHER
            return
        with connection:
            ip, port = plain(remote[0]), remote[1]
            net = network(ip)
            most = self._options.client_limit
            if most and self._count(net) >= most:
                self._turn_away(connection, ip, port, TOO_MANY, "too-many-connections")
                return
            try:
                client = self._meet(connection, ip, port)
            except ControlError as error:
                drop(error)
            except OSError:
                pass  # it has gone again
            else:
                if client is not None and not self._hand_out(client, net):
                    self._turn_away(connection, ip, port, NO_PROCESS, "no-process")

    def _meet(self, connection: socket.socket, ip: str, port: int) -> Client | None:
        """A client with its environment, or None where a rule refuses it.

        Raises ControlError where the rules cannot be read, OSError where it is gone.
        """
        options = self._options
        if options.no_delay:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local = connection.getsockname()
        if options.kill_ip_options and len(local) == 2:
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
        environ = variables(ip, port, local)
        if options.local_name is not None:
            environ[b"TCPLOCALHOST"] = os.fsencode(options.local_name)
        unruled = self._stock.rules is not None and options.remote_names
        if self._stock.rules is not None and not unruled:
            rule = self._stock.rules.find(ip.encode(), None)
            denied = rules.denies(rule)
            rules.apply(rule, environ)
            if denied:
                if options.verbose >= STATUS:
                    status.verdict("deny", os.getpid(), environ)
                return None
        return Client(connection.fileno(), environ, unruled)

    def _count(self, net: str) -> int:
        return sum(worker.client == net for worker in self._workers.values())

    @staticmethod
    def _turn_away(connection: socket.socket, ip: str, port: int, reply: bytes, end: str) -> None:
        """Say why, if that needs no waiting, and in the log."""
        try:
            connection.setblocking(False)
            connection.send(reply + b"\r\n")
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        Log(2, pid=os.getpid(), ip=ip).line("session", end=end, reply=reply, port=port)

    def _hand_out(self, client: Client, net: str) -> bool:
        """To a process that is ready, the latest used first; else to a new one.  Is there any?"""
        self._status(1)  # first, as in tcpserver's log: the worker says the rest
        for worker in sorted(self._free(), key=lambda w: (w.used, w.idle_since), reverse=True):
            if self._send(worker, client):
                worker.client = net
                worker.used = True
                break
        else:
            if self._fork(client, net) is None:
                self._accept_again = monotonic() + BREATHER
                self._status()
                return False
        self._spare_wait = FIRST_WAIT
        return True

    def _send(self, worker: Worker, client: Client) -> bool:
        assert worker.control is not None
        packed = client.pack()
        if len(packed) > PACKED_LIMIT:
            return False  # a new process need not be told
        try:
            socket.send_fds(worker.control, [packed], [client.fd])
        except OSError:  # it has just died
            return False
        if self._options.sessions == 1:
            worker.dismiss()
        return True

    # -- the end -----------------------------------------------------------

    def _on_term(self, *_: object) -> None:
        self._stopping += 1

    def _on_hup(self, *_: object) -> None:
        self._reload = True

    def _drain(self) -> None:
        """No more clients: let sessions end, for a while, then end them."""
        for listener in self._listeners:
            listener.close()
        for worker in self._workers.values():
            worker.dismiss()
        if self._trial is not None:
            os.kill(self._trial.pid, signal.SIGKILL)
        self._wait(self._options.drain, lambda: self._stopping > 1)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._workers:
                os.kill(pid, number)
            self._wait(GRACE, lambda: False)

    def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Until every process has ended, `seconds` are over, or it is enough."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        end = monotonic() + seconds
        self._heed_signals()
        while self._workers and not enough() and monotonic() < end:
            poll.poll(max(0.0, end - monotonic()) * 1000)
            self._heed_signals()

    # -- what is said ------------------------------------------------------

    def _status(self, more: int = 0) -> None:
        if self._options.verbose >= STATUS:
            status.say(f"status: {self._busy() + more}/{self._options.limit}")

    def _complain(self, text: str) -> None:
        if self._options.verbose >= ERRORS:
            status.say("warning: " + text)
