"""A program that we start, wait for with a deadline, and end when it hangs.

What it inherits is what take_client() has left: /dev/null on 0, the log on 1
and 2, and nothing else; its starter says what comes on which descriptor.
"""

from __future__ import annotations

import posix as os
import select
from time import monotonic, sleep

from .. import waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence

    from ..facts import Client, Envelope

    Poll = Callable[[select.poll, float], list[int]]
else:
    import _signal as signal  # signal.py imports enum, which costs a cold start 4 ms

#: How long a program may take to exit after TERM (seconds).
GRACE = 5.0
#: What a program inherits as it was before us: Python ignores SIGXFSZ, qmail-smtpd does not;
#: both ignore SIGPIPE.  HUP is ignored where we have been asked to end.  No other one is; but
#: of each that is not named here, glibc asks before it resets it.
_DEFAULT = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE})
#: How often to look where poll() cannot tell of an exit (seconds).
BLIND_WAIT = 0.02
#: The status of a process that somebody else has waited for.
LOST = -1

_KEPT_BACK = frozenset(
    # Of TLS.
    b"SSLCTLFD SSLREADFD SSLWRITEFD UCSPITLS SERVERCERT SERVERKEY CERTFILE KEYFILE DHFILE"
    b" CADIR CAFILE CCAFILE CERTCHAINFILE CIPHERS SSL_UID SSL_GID SSL_CHROOT TLS_UID TLS_GID"
    # What says who the client is and what it may do: we say so, or nobody does.
    b" RELAYCLIENT AUTHUSER AUTHPROTOCOL SMTPAUTHUSER SMTP_AUTH_USER"
    # To us a setting, to a program a fact of the message.
    b" SMTPUTF8".split()
)
#: So a value begins that is a function to a shell of before 2014.
FUNCTION = b"() {"
#: In the notes of a client: variables for its programs; None is one that is unset.
VARIABLES = "spp.variables"
_LOADER_PREFIXES = (b"LD_", b"PYTHON", b"BASH_FUNC_", b"CERTFILE:", b"KEYFILE:")


class Environ(dict[bytes, bytes]):
    """The environment of one connection of many: `common` to all of them, and its own `facts`.

    What no program may know is then looked for in what is common once, and not for each message.
    """

    __slots__ = ("common", "facts")

    def __init__(self, common: Mapping[bytes, bytes], facts: Mapping[bytes, bytes]) -> None:
        super().__init__(common)
        self.update(facts)
        self.common = common
        self.facts = facts


_common: Mapping[bytes, bytes] = {}  # the last one
_passed_on: dict[bytes, bytes] = {}  # what is passed on of it


def child_environ(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The environment of a connection, for a program that is not to know what the client may do.

    It is without what would give a child our keys, or load code into it.
    """
    global _common, _passed_on
    if not isinstance(environ, Environ):
        return _pass_on(environ)
    if _common is not environ.common:
        _passed_on = _pass_on(environ.common)
        _common = environ.common
    own = _pass_on(environ.facts)
    found = {**_passed_on, **own}
    for name in environ.facts.keys() - own:  # what is common under this name does not hold here
        found.pop(name, None)
    return found


def _pass_on(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {
        name: value
        for name, value in environ.items()
        if name  # posix_spawn() takes none without a name; some parents make one
        and name not in _KEPT_BACK
        and not name.startswith(_LOADER_PREFIXES)
        and not value.startswith(FUNCTION)
    }


def client_environ(client: Client) -> dict[bytes, bytes]:
    """The same for a program that decides by it: RELAYCLIENT where the client may relay now.

    Wrappers of the queue program, as qmail-scanner and simscan, tell by it whose
    mail goes out.  What plugins of qmail-spp have set or unset holds here.
    """
    environ = child_environ(client.peer.environ)
    changed: dict[bytes, bytes | None] | None = client.notes.get(VARIABLES)
    if changed is not None:
        environ |= _pass_on({name: value for name, value in changed.items() if value is not None})
        for name in [name for name, value in changed.items() if value is None]:
            environ.pop(name, None)
    if client.relay is not None and not client.relay.startswith(FUNCTION):
        environ[b"RELAYCLIENT"] = client.relay
    return environ


def told(client: Client, envelope: Envelope) -> dict[bytes, bytes]:
    """What a program that is asked by a filter is told of client and sender, by name."""
    told = {
        b"SENDER": envelope.sender,
        b"HELO": client.peer.host if client.helo is None else client.helo,
    }
    if envelope.utf8:
        told[b"SMTPUTF8"] = b"1"
    if client.auth is not None:
        for name in (b"TCPREMOTEINFO", b"SMTPAUTHUSER", b"SMTP_AUTH_USER"):
            told[name] = client.auth.user
    return told


class Process:
    """A running program.  Starting it raises OSError.

    `places` says which of our descriptors (the key) becomes which of its.
    With `search`, a program without a slash is looked for in our PATH.
    """

    __slots__ = ("pid", "status", "_pidfd")

    def __init__(
        self,
        command: list[bytes],
        environ: Mapping[bytes, bytes],
        places: Mapping[int, int],
        search: bool = False,
    ) -> None:
        spawn = os.posix_spawnp if search else os.posix_spawn
        self.pid = spawn(
            command[0],
            command,
            environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, its) for ours, its in places.items()],
            # A group of its own, so that what hangs can be ended whole.
            setpgroup=0,
            setsigdef=_DEFAULT,
            setsigmask=[],
        )
        self.status: int | None = None  # as waitpid gives it, once it has exited; or LOST
        self._pidfd = _open_pidfd(self.pid)

    def exited(self) -> bool:
        """Has it?  Then `status` says how."""
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, LOST
            if pid == self.pid:
                self.status = status
        return self.status is not None

    def poll(self, poll: select.poll, deadline: float) -> list[int]:
        """Wait once, as waits.wait(): for what `poll` waits for or for the exit."""
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        else:
            deadline = min(deadline, monotonic() + BLIND_WAIT)
        try:
            return waits.wait(poll, deadline)
        except OSError:  # no memory, say: what is committed has to be seen to its end
            sleep(BLIND_WAIT)
            return []

    def told(self, ready: list[int]) -> bool:
        """Does what poll() has returned tell of the exit?"""
        return self._pidfd in ready

    def wait(self, deadline: float, once: Poll | None = None, verdict: bool = False) -> bool:
        """Wait for the exit; False where it has not come by `deadline`.

        `once` may stand in for poll(), to look after something else meanwhile.
        `verdict`: the deadline may move when the server ends (see waits.py).
        """
        once = once or self.poll
        nothing_else = select.poll()
        while True:
            if verdict:
                deadline = waits.verdict(deadline)
            late = monotonic() >= deadline
            once(nothing_else, deadline)
            if self.exited():
                return True
            if late:
                return False

    def end(self, grace: float = GRACE) -> None:
        """TERM, then KILL, with `grace` seconds for each."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            # To its group, and to itself where it has moved to another one.
            for kill in (os.killpg, os.kill):
                try:
                    kill(self.pid, number)
                except OSError:
                    pass
            if self.wait(monotonic() + grace):
                return

    def close(self) -> None:
        """It is of no interest any more."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def _open_pidfd(pid: int) -> int:
    """A descriptor that polls readable when the process exits; -1 where there is none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or one of before 5.3
        return -1
