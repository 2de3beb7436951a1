"""A process that serves connections, one after the other.

It is forked from the master with everything loaded.  It has its first
connection from the start, or waits for one on its control socket, where the
master sends the descriptor and what is known of the client.  When it is done,
it says so on the board (see board.py).  The end of the control socket means that
there is nothing more to do, or that the master is dead.

What a new process touches of the memory that it shares with the master is
copied for it, which is most of what its first session costs.  So the master does
what it can before the fork (see warmup.py), and this file does little.
"""

from __future__ import annotations

import _socket as socket
import errno
import gc
import os
import sys

from .. import waits
from ..facts import TLS_FAILED, ControlError, Outcome
from ..net.sockets import SocketTransport
from ..net.tcprules import DENIED, DENIED_END
from ..session import connection
from ..session.plan import NoPlan
from . import names, rules, status
from .accepted import Accepted, unpack
from .options import STATUS
from .state import INTERPRETER, PROCESS, ProcessState, descriptors, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import signal

    from ..config.files import ControlFiles
    from ..policy.running import Running
    from .board import Board
    from .configuration import Configuration
    from .options import Options
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call

#: So many new objects go before a look for garbage: a session leaves hardly any that is
#: not freed by itself, and with Python's 700 that look was an eighth of a short one.
GARBAGE = 10_000
PACKED_LIMIT = 65536  # bytes of a packed connection
#: What a worker says after a session, where the master waits for one (see board.py).
DONE = b"."
#: After these ends, in which something was not as it should be, the process is not used again.
_UNSOUND_ENDS = frozenset(
    ("trouble", "memory", "control", "plugin-hangs", "shutdown")
    + (TLS_FAILED, "tls-unavailable", "tls-without-text")
)


def work(
    configuration: Configuration,
    first: Accepted | None,
    control: socket.socket | None,
    page: mmap.mmap | None,
    board: Board,
    place: int,
) -> int:
    """Serve until there is nothing more to do; the exit status of the process.

    `first` is the first connection, or None where it comes on the socket
    `control`, as all later ones do.  `page` is shared with the master (see
    deaths.py), and so is the `board`, on which this is its `place`.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    waits.listen(configuration.options.drain or waits.NEVER)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # they were blocked over the fork
    gc.set_threshold(GARBAGE)
    gc.enable()  # what was there before the fork is frozen
    running = None
    if page is not None:
        from ..policy.running import Running

        running = Running(page)
    if configuration.options.sessions == 1:
        accepted = first or _receive(control)
        if control is not None:
            control.close()
        return 0 if accepted is None else serve(configuration, accepted, running)[0].status
    assert control is not None
    return _serve_several(configuration, first, control, running, board, place)


def _serve_several(
    configuration: Configuration,
    first: Accepted | None,
    control: socket.socket,
    running: Running | None,
    board: Board,
    place: int,
) -> int:
    if configuration.rules is not None:
        configuration.rules.open()  # its descriptor is not one that a session has left
    before = None
    if configuration.external_plugins or configuration.rules is not None:
        files = configuration.preloaded.files
        before = _ProcessState(files, None if first is None else first.fd)
    code = 0
    for left in range(configuration.options.sessions, 0, -1):
        accepted = first or _receive(control)
        first = None
        if accepted is None:
            break
        outcome, external = serve(configuration, accepted, running)
        code = outcome.status
        os.close(accepted.fd)
        if left == 1 or not _is_sound(outcome) or waits.requested():
            break
        if external and (before is None or not before.is_restored()):
            break
        try:
            if board.say(place, code):
                control.send(DONE)
        except OSError:
            break
    return code


def _is_sound(outcome: Outcome) -> bool:
    return outcome.end not in _UNSOUND_ENDS and not outcome.trouble


def _receive(control: socket.socket | None) -> Accepted | None:
    """The next connection; None at the end.  Raises OSError where it has come and is lost."""
    assert control is not None
    space = socket.CMSG_SPACE(4)
    packed: bytes | None = None
    while packed is None:
        waits.idle(lambda: _refuse_more(control))
        try:
            packed, extra, _, _ = control.recvmsg(PACKED_LIMIT, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            pass  # nobody came, or a signal at the very moment at which this began to wait
        except OSError:
            return None
    if not packed:
        return None
    if not extra:  # recvmsg(2), MSG_CTRUNC: this process may have no more descriptors
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return unpack(int.from_bytes(extra[0][2], sys.byteorder), packed)


def _refuse_more(control: socket.socket) -> None:
    """Asked to end while it is idle: a client who is on the way is served still, and no other.

    With what the master sends afterwards it goes to another process.
    """
    try:
        control.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # the master has gone


def serve(
    configuration: Configuration, accepted: Accepted, running: Running | None
) -> tuple[Outcome, bool]:
    """Serve a connection from the first byte to the last; with plugins from elsewhere?"""
    waits.begin_session()
    options = configuration.options
    facts, rule = accepted.facts, accepted.rule
    _add_names(facts, options)
    if rule is None:
        assert configuration.rules is not None
        try:
            rule = configuration.rules.find(facts[b"TCPREMOTEIP"], facts.get(b"TCPREMOTEHOST"))
        except ControlError as error:
            rules.report(error)
            return Outcome(DENIED_END, 111), False
        if b"PROXYHEADER" in facts:
            rule = rules.rule_of(rule, facts)
    denied = rules.denies(rule)
    plan = configuration.plan(rule)
    environ = configuration.environ_of(plan, rule, facts)
    if options.verbose >= STATUS:
        pid = os.getpid()
        status.say(f"pid {pid} from {_text(environ, b'TCPREMOTEIP')}")
        status.verdict("deny" if denied else "ok", pid, environ)
    if denied:
        return Outcome(DENIED_END, DENIED), False
    limit = None
    external = isinstance(plan, NoPlan) or plan.plugins.external
    if running is not None and external and not isinstance(plan, NoPlan):
        from ..policy.timelimit import TimeLimit

        # The master says which plugin it was, so a traceback can go to /dev/null (0).
        limit = TimeLimit(0, running)
    transport = SocketTransport(accepted.fd)
    since, greeted = accepted.since, accepted.greeted
    outcome = connection.serve(
        transport, accepted.fd, environ, plan, os._exit, limit, since, greeted
    )
    return outcome, external


def _add_names(facts: dict[bytes, bytes], options: Options) -> None:
    if options.local_name is not None:
        facts[b"TCPLOCALHOST"] = os.fsencode(options.local_name)
    else:
        _add(facts, b"TCPLOCALHOST", names.local_name_of(_text(facts, b"TCPLOCALIP")))
    if options.remote_names:
        remote = names.name_of(_text(facts, b"TCPREMOTEIP"), options.paranoid)
        _add(facts, b"TCPREMOTEHOST", remote)


def _text(environ: dict[bytes, bytes], name: bytes) -> str:
    """An address, or whatever a rule has made of it."""
    return environ[name].decode("ascii", "replace")


def _add(environ: dict[bytes, bytes], name: bytes, value: bytes | None) -> None:
    if value is not None:
        environ[name] = value


class _ProcessState:
    """What a session, or a plugin in it, may change in the process, as it was before.

    `files` are those of which some stay open.  `other` is a descriptor that is open now
    and will be closed then.
    """

    def __init__(self, files: ControlFiles, other: int | None = None) -> None:
        self._files = files
        self._state = ProcessState(PROCESS + INTERPRETER)
        self._descriptors = self._open()
        if other is not None and self._descriptors:
            self._descriptors.remove(identity(other))

    def is_restored(self) -> bool:
        """Restore it.  False where that cannot be, or something is left over."""
        if self._state.restore():
            return False
        if self._open() != self._descriptors:
            gc.collect()  # objects that refer to each other still hold files, as a cdb
            if self._open() != self._descriptors:
                return False
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        return False

    def _open(self) -> list[tuple[int, int]]:
        return descriptors(self._files.open_files, self._files.open_sockets)
