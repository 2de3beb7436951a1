"""`qsmtpd-server --check`: what the user of -u can read, and then what `qsmtpd --check` says."""

from __future__ import annotations

import os
import sys

from ..config.files import home
from ..diagnose import check as child
from ..facts import ControlError
from .rules import Rules
from .user import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .options import Options


def check(options: Options, environ: Mapping[bytes, bytes]) -> int:
    """Write to descriptor 1 what is wrong; the exit status: 0 if mail would flow, else 1.

    After HUP the server reads everything as that user, so at the latest then a
    file that only root can read is missing.
    """
    try:
        become(options)
    except OSError as error:
        _say(f"wrong: -u, -g: {error.strerror}: start this check as root")
        return 1
    _say(f"ok: user = {os.geteuid()}, group = {os.getegid()} (it reads what follows)")
    problems = [
        *_unreadable(home(environ) + b"/control"),
        *_unreadable(home(environ) + b"/plugins", wanted=False),
        *_rules(options),
    ]
    for warning in _python():
        _say("warning: " + warning)
    for problem in problems:
        _say("wrong: " + problem)
    return child.check(environ, home(environ), options.checkpassword) or int(bool(problems))


def _unreadable(folder: bytes, wanted: bool = True) -> Iterator[str]:
    """Each file below a folder that we cannot read, and why."""

    def fail(error: OSError) -> None:
        if wanted or not isinstance(error, FileNotFoundError):
            failures.append(error)

    failures: list[OSError] = []
    for path, _, files in os.walk(folder, onerror=fail):
        for name in files:
            try:
                os.close(os.open(path + b"/" + name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as error:
                fail(error)
    for failure in failures:
        yield f"{os.fsdecode(failure.filename)}: {failure.strerror}"


def _python() -> Iterator[str]:
    """What of Python that user cannot read.

    HUP may import what was not needed before: a plugin, pyOpenSSL with a certificate.
    """
    for what in (sys.executable, os.__file__, __file__):
        if not os.access(what, os.R_OK):
            yield f"{what}: this user cannot read it, and HUP may have to import something"


def _rules(options: Options) -> Iterator[str]:
    """What is wrong with the rules file; says so itself where nothing is."""
    if options.rules is None:
        return
    try:
        Rules(os.fsencode(options.rules), options.rules_optional).find(b"", None)
    except ControlError as error:
        yield f"{error.name}: {error.reason}, so every client is dropped"
    else:
        _say(f"ok: rules = {options.rules} (-x)")


def _say(text: str) -> None:
    os.write(1, (text + "\n").encode("ascii", "backslashreplace"))
