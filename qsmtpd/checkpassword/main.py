"""qsmtpd-checkpassword: a checkpassword-compatible program over control/smtpusers.

It reads a login from fd 3 (https://cr.yp.to/checkpwd/interface.html), and either
becomes the program that it was told to run, or exits with the interface's codes.
With an option it edits the file instead: see qsmtpd.checkpassword.edit.
"""

from __future__ import annotations

import os

from .. import __version__, log
from ..config.files import ControlFiles, home
from ..facts import ControlError
from . import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn
else:
    import _signal as signal  # as in qsmtpd.child.spawn

LOGIN = 3  # the descriptor
#: The interface promises no more than 512 bytes; AUTH allows for a few thousand.
LOGIN_LIMIT = 16384

REFUSED = 1
MISUSED = 2
TEMPORARY = 111

USAGE = """\
usage: qsmtpd-checkpassword program [argument ...]   check the login on fd 3
       qsmtpd-checkpassword --scram                  carry out SCRAM on fds 0 and 1
       qsmtpd-checkpassword --add [--cram | --scram] name
                                                     add a user, or change the password
       qsmtpd-checkpassword --remove name
       qsmtpd-checkpassword --list
       qsmtpd-checkpassword --help | --version
"""


class Misused(Exception):
    """We were not started as the interface or the usage says; the reason."""


def main(arguments: list[str]) -> NoReturn:
    """The program.  `arguments` do not hold its name."""
    try:
        status = run([os.fsencode(argument) for argument in arguments])
    except Misused as error:
        say(str(error))
        status = MISUSED
    except ControlError as error:
        say(f"{error.name}: {error.reason}")
        status = TEMPORARY
    except KeyboardInterrupt:
        say("interrupted")
        status = TEMPORARY
    except BaseException as error:
        # Only the kind of it: its text may hold what somebody typed.
        say(f"failed: {type(error).__name__}")
        status = TEMPORARY
    os._exit(status)


def run(arguments: list[bytes]) -> int:
    """Check a login or edit the file; return the exit status.

    Raises Misused and ControlError.
    """
    if not arguments:
        raise Misused("no program to run\n" + USAGE.rstrip())
    files = ControlFiles(home(os.environb))
    if not arguments[0].startswith(b"--"):
        return check(files, arguments)
    if arguments == [b"--help"]:
        os.write(1, USAGE.encode())
        return 0
    if arguments == [b"--version"]:
        os.write(1, b"qsmtpd-checkpassword " + __version__.encode() + b"\n")
        return 0
    if arguments == [b"--scram"]:
        from . import scram

        return scram.serve(files)
    from . import edit

    try:
        if not edit.run(arguments, files):
            raise Misused("an unknown option, or no name\n" + USAGE.rstrip())
    except edit.EditRefused as refused:
        say(str(refused))
        return REFUSED
    return 0


def check(files: ControlFiles, program: list[bytes]) -> int:
    """Become `program` if fd 3 has a right login; else return REFUSED.

    Raises Misused if there is no login on fd 3, ControlError if the file or
    the program is not to be had.
    """
    data = read_login()
    if len(data) > LOGIN_LIMIT:
        say(f"the login is longer than {LOGIN_LIMIT} bytes")
        return REFUSED  # as checkpassword does: no password is so long
    name, answer, challenge = parse_login(data)
    content = files.read(users.FILE)
    if content is None:
        raise ControlError("control/" + users.FILE, "is not there")
    known = users.parse(content)
    if challenge:
        right = users.accepts_response(known, name, answer, challenge)
    else:
        right = users.accepts_password(known, name, answer)
    if not right:
        return REFUSED
    # Python ignores these two signals; whom we run may not expect it.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvpe(program[0], program, {**os.environb, b"USER": name})
    except OSError as error:
        raise ControlError("the program", error.strerror or "cannot be run") from None


def read_login() -> bytes:
    """What fd 3 holds, to its end or beyond the limit; fd 3 is closed.  Raises Misused."""
    data = b""
    try:
        while len(data) <= LOGIN_LIMIT and (part := os.read(LOGIN, LOGIN_LIMIT + 1)):
            data += part
        os.close(LOGIN)
    except OSError:
        raise Misused("descriptor 3 cannot be read") from None
    return data


def parse_login(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The bytes of fd 3 -> name, answer, challenge.  Raises Misused.

    Without a challenge the answer is a password.  With one it is a response to
    it; it then stands before the challenge (SPAMCONTROL, s/qmail) or behind it
    (netqmail's AUTH patches).  A client says only one of the two, and cannot
    make the other look like what it is not: our challenge begins with `<` and
    ends with `>`, a response is 32 hexadecimal digits.
    """
    fields = data.split(b"\0")[:-1]  # each ends in a NUL
    if len(fields) < 2:
        raise Misused("descriptor 3 has no name and password")
    name, first, second = [*fields, b""][:3]  # any more are not for us
    if _is_challenge(second):
        return name, first, second
    if _is_challenge(first) and _is_response(second):
        return name, second, first
    return name, first, b""  # what else the second is, a time, is to be ignored


def say(text: str) -> None:
    """One or more lines on standard error, if there is one."""
    log.write(f"qsmtpd-checkpassword: {text}".encode("ascii", "backslashreplace"))


def _is_challenge(field: bytes) -> bool:
    return len(field) > 2 and field.startswith(b"<") and field.endswith(b">")


def _is_response(field: bytes) -> bool:
    return len(field) == 32 and not field.strip(b"0123456789abcdefABCDEF")
