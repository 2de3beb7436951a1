"""Waits, and the signals that ask this process to end.

Every wait has a deadline on the monotonic clock, and none asks the system for
more than it takes.  After listen(), TERM, INT and HUP end no process where it
stands.  They end the wait under way, and check() tells of them: so who must not
be interrupted, as one who waits for the queue program's verdict, does not ask.

USR1 asks a process of qsmtpd-server to finish: check() tells of it where no mail
transaction is open, or when that has ended.
"""

from __future__ import annotations

import posix as os
import select
from time import monotonic

from .facts import Shutdown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal  # signal.py imports enum, which costs a cold start 4 ms

#: No system call is asked to wait longer (seconds): poll() takes an int of ms.
LONGEST = 1_000_000.0
NEVER = float("inf")
#: After such a signal, how long a client may take to read what it is told; and after
#: that, as where the queue program took its time (seconds).
GRACE, LITTLE = 5.0, 1.0

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FINISH = signal.SIGUSR1
_requested = False  # one of SIGNALS has come
_finishing = False  # FINISH has
_since = NEVER  # when the last of all did
_patience = NEVER  # seconds that a verdict may take after FINISH
_verdict_by = NEVER  # until when it may, after FINISH
_in_transaction = False
_ending = False  # what goes on ends by itself: there is nothing to cut short
_idle: Callable[[], object] | None = None
_interrupt: Callable[[], object] | None = None
_wake = -1  # readable after a signal, also one just before poll(): a handler alone would miss that


def listen(finish: float | None = None) -> None:
    """Handle TERM, INT and HUP.  A second TERM or INT ends the process at once.

    And FINISH, if there is a number: after it a verdict may take so many seconds.
    """
    global _wake, _patience
    try:
        _wake, writer = os.pipe()
        os.set_blocking(writer, False)
    except OSError:
        return  # no descriptor to be had: they go on ending the process where it stands
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _on_signal)
    if finish is not None:
        _patience = finish
        signal.signal(FINISH, _on_finish)


def idle(leave: Callable[[], object]) -> None:
    """There is no session: such a signal calls leave(), which ends the wait for one."""
    global _idle, _interrupt
    _idle, _interrupt = leave, None
    if requested():
        leave()


def begin_session() -> None:
    """There is one, and such a signal is to end it."""
    global _idle, _ending, _in_transaction
    _idle, _ending, _in_transaction = None, False, False


def end_session() -> None:
    """It ends anyway, within seconds: nothing is to be cut short any more."""
    global _ending, _in_transaction
    _ending, _in_transaction = True, False


def transaction(is_open: bool) -> None:
    """Is a mail transaction under way?  FINISH waits for its end."""
    global _in_transaction
    _in_transaction = is_open


def on_request(interrupt: Callable[[], object] | None) -> None:
    """What makes a read return that is no wait() here; the signal handler calls it.

    Not where nothing is to be cut short: within a transaction TERM calls it, FINISH
    does not.  A signal between check() and the read's system call is missed by it.
    """
    global _interrupt
    _interrupt = interrupt


def requested() -> bool:
    """Has a signal come that asks for the end now?"""
    return _requested or (_finishing and not _in_transaction)


def cut_short() -> bool:
    """The same, and has the end not begun?"""
    return requested() and not _ending


def check() -> None:
    """Raise Shutdown where that is so."""
    if (_requested or (_finishing and not _in_transaction)) and not _ending:
        raise Shutdown("asked to end")


def shorter(deadline: float) -> float:
    """This deadline; a sooner one where such a signal has come and somebody is to hear that."""
    if not requested():
        return deadline
    return min(deadline, max(_since + GRACE, monotonic() + LITTLE))


def verdict(deadline: float) -> float:
    """This deadline for the queue program; a sooner one where the server ends and waits for it."""
    return min(deadline, _verdict_by)


def _on_signal(number: int, frame: object) -> None:
    global _requested
    _requested = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # systemd (SendSIGHUP=) and others send HUP with TERM: that is one request.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _act()


def _on_finish(number: int, frame: object) -> None:
    global _finishing, _verdict_by
    if not _finishing:
        _finishing, _verdict_by = True, monotonic() + _patience
    _act()


def _act() -> None:
    global _since
    _since = monotonic()
    if _idle is not None:
        _idle()
    elif _interrupt is not None and requested() and not _ending:
        _interrupt()


# -- waits -------------------------------------------------------------------


def left(deadline: float) -> float:
    """How long a system call may wait for this deadline (seconds)."""
    return min(max(0.0, deadline - monotonic()), LONGEST)


def wait(poll: select.poll, deadline: float) -> list[int]:
    """Wait once: the descriptors of `poll` that are ready.

    None at the deadline, and before it after a signal or LONGEST: so it is for
    a loop that looks at its deadline.  Raises OSError where the system cannot.
    """
    if _wake >= 0:
        poll.register(_wake, select.POLLIN)
    ready = [fd for fd, _ in poll.poll(left(deadline) * 1000)]
    if _wake in ready:
        ready.remove(_wake)
        os.read(_wake, 512)
    return ready


def sleep(seconds: float) -> None:
    """Wait that long, or until this process is asked to end."""
    deadline = monotonic() + seconds
    nothing = select.poll()
    while (_ending or not requested()) and monotonic() < deadline:
        wait(nothing, deadline)
