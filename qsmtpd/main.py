"""The cold child: one connection on fds 0 and 1, in whatever protocol, then exit.

Of a session's code this file and server/ alone end the process or look at
os.environ.
"""

from __future__ import annotations

import posix as os
import sys

from . import __version__, start, waits
from .config.files import ControlFiles, fix_home, home
from .log import Log, redirect
from .net import ucspi
from .net.descriptors import Descriptors
from .session import connection, plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from .session.protocol import Conversation
else:
    import _signal as signal  # signal.py imports enum, which costs a cold start 4 ms

USAGE = """\
usage: qsmtpd [checkpassword-program subprogram ...]
                           serve the SMTP client on fds 0 and 1 (see qsmtpd(8))
       qsmtpd --check [--quiet] [checkpassword-program subprogram ...]
                               read every control file, and say what is set and what is wrong
       qsmtpd --hooks          print which plugin sits at which stage, in order
       qsmtpd --explain [ip=ADDRESS] [host=NAME] [helo=NAME] [from=SENDER] to=RECIPIENT ...
                        [user=NAME] [tls=yes] [message=FILE]
                               what every plugin, and then the reply, would be; queues nothing
       qsmtpd --counts [--json] [NAME|client:ADDRESS ...]
                               who has sent how much: the counts of control/sendlimits
       qsmtpd --counts --reset NAME|client:ADDRESS ... | --all
                               forget those of these users and clients
       qsmtpd --version
       qsmtpd --help
"""


def main(arguments: list[str]) -> NoReturn:
    """The program `qsmtpd`.  `arguments` do not hold its name."""
    from .session.dialogue import Smtp  # here: the other protocols have no need of it

    run(Smtp, "qsmtpd", USAGE, arguments)


def run(protocol: type[Conversation], program: str, usage: str, arguments: list[str]) -> NoReturn:
    """The `program` that speaks this protocol, with these arguments; `usage` is its help."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a ^C by hand should end us, not raise
    environ = dict(os.environ)
    if arguments[:1] != ["--check"]:  # which says what is wrong with it
        fix_home(environ)
    encoding = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    command = [word.encode(*encoding) for word in arguments]  # os.fsencode()
    if not arguments or (protocol.asks_passwords and not arguments[0].startswith("-")):
        status = serve(protocol, environ, command)
    else:
        try:
            status = tell(protocol, program, usage, environ, arguments, command)
        except OSError as error:
            status = 111
            if not isinstance(error, BrokenPipeError):  # else the reader has seen enough
                os.write(2, f"{program}: {error.strerror}\n".encode("ascii", "backslashreplace"))
    # Nothing is buffered anywhere, so nothing needs Python's way out.
    os._exit(status)


def tell(
    protocol: type[Conversation],
    program: str,
    usage: str,
    environ: dict[bytes, bytes],
    arguments: list[str],
    command: list[bytes],
) -> int:
    """Do what an option asks for, and write what it says; the exit status.  Raises OSError.

    `command` are the `arguments` as bytes.
    """
    if arguments[0] == "--check":
        quiet = arguments[1:2] == ["--quiet"]
        checkpassword = command[1 + quiet :]
        if protocol.asks_passwords or not checkpassword:
            return check(protocol, environ, checkpassword, quiet)
    elif arguments == ["--hooks"]:
        from .diagnose.explain import show_hooks

        return show_hooks(environ, home(environ))
    elif arguments[0] == "--explain" and protocol.explained:
        from .diagnose.explain import explain

        return explain(environ, home(environ), arguments[1:], os._exit)
    elif arguments[0] == "--counts" and protocol.explained:
        from .diagnose.counts import show_counts

        return show_counts(environ, home(environ), command[1:])
    elif arguments == ["--version"]:
        os.write(1, f"{program} {__version__}\n".encode())
        return 0
    elif arguments == ["--help"]:
        os.write(1, usage.encode())
        return 0
    os.write(2, f"{program}: unknown argument\n{usage}".encode())
    return 111


def check(
    protocol: type[Conversation],
    environ: dict[bytes, bytes],
    checkpassword: list[bytes],
    quiet: bool,
) -> int:
    """Say what is set and what is wrong; the exit status."""
    try:
        from .diagnose.check import examine

        return examine(environ, checkpassword, quiet, protocol).print()
    except MemoryError:
        pass
    except ImportError as error:
        # The dynamic linker, where a library of Python's finds no room.
        if not any(text in str(error) for text in ("map segment", "allocate")):
            raise
    os.write(1, b"wrong: memory: is not enough for this check, nor for a session\n")
    return 1


def serve(
    protocol: type[Conversation], environ: dict[bytes, bytes], checkpassword: list[bytes]
) -> int:
    """Serve the client on fds 0 and 1; return the exit status.

    `environ` are the facts about this connection; `checkpassword` is the
    program with its arguments, if there is one.
    """
    if start.stderr_is_client:
        from .net.syslog import Syslog

        redirect(Syslog())
    ucspi.drop_coerced_locale(environ)
    try:
        client = ucspi.take_client()
    except OSError as error:
        Log(2, pid=os.getpid()).line("trouble", error="OSError", reason=str(error))
        return 111
    waits.listen()
    files = ControlFiles(home(environ))
    status = connection.admit(files, environ, client[0], protocol.name)
    if status is not None:
        return status
    made = plan.make(protocol, files, environ, checkpassword)
    return connection.serve(Descriptors(*client), client[0], environ, made, os._exit).status
