"""The program qsmtpd-server: its start, the change of user, and its exit status."""

from __future__ import annotations

import os

from .. import __version__, log
from ..config.files import fix_home, home
from ..net import ucspi
from . import accepted, imports, limits, sockets, status, warmup
from .configuration import Configuration
from .master import Master
from .options import HELP, QUIET, USAGE, Options, UsageError
from .output import unblock
from .rules import Rules
from .state import INTERPRETER, PROCESS, ProcessState, Standard
from .user import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn


def main(arguments: list[str]) -> NoReturn:
    """Run qsmtpd-server with these arguments.  Exits 111 if it cannot start, 0 after TERM."""
    if arguments in (["--help"], ["--version"]):
        text = USAGE + HELP if arguments == ["--help"] else f"qsmtpd-server {__version__}\n"
        os.write(1, text.encode())
        os._exit(0)
    environ = dict(os.environb)
    _fill_standard_descriptors()
    try:
        options = Options(arguments, environ)
    except UsageError as error:
        status.say(f"usage error: {error}")
        os.write(2, USAGE.encode())
        os._exit(111)
    status.quiet = options.verbose == QUIET
    if options.check:
        from . import permissions

        os._exit(permissions.check(options, _base(environ)))
    try:
        _run(options, environ)
    except OSError as error:
        status.say(f"fatal: {error.strerror or error}")
        os._exit(111)
    os._exit(0)


def _run(options: Options, environ: Mapping[bytes, bytes]) -> None:
    try:
        listeners = sockets.listen(options, environ)
    except OSError as error:
        where = f"{options.host} {options.port}"
        raise OSError(0, f"cannot listen on {where}: {error.strerror}") from error
    imports.at_start(options)
    become(options)
    if options.ident:
        status.say("warning: ident lookups are not done: -r and -t do nothing")
    limits.raise_limit(options)
    rules = None
    if options.rules is not None:
        rules = Rules(os.fsencode(options.rules), options.rules_optional)
    base = _base(environ)
    fix_home(base)

    before_plugins = ProcessState(INTERPRETER)

    def load() -> Configuration:
        before_plugins.restore()  # what those have left that were loaded before
        _enter(home(base))
        state, standard = ProcessState(PROCESS), Standard()
        preloaded = warmup.preload(base, options.checkpassword, options.protocol)
        configuration = Configuration(options, base, rules, preloaded)
        warmup.prepare_rules(configuration)
        standard.restore()
        for name in state.restore():
            problem = f"plugins: one of them changes the server's {name} when it is loaded"
            status.say(f"warning: {problem}")
            preloaded.note(problem)
        return configuration

    master = Master(listeners, load)
    if options.print_port:
        os.write(1, b"%d\n" % listeners[0].getsockname()[1])
    _settle_descriptors()
    unblock()
    log.settle()
    master.run()


def _enter(path: bytes) -> None:
    """Go to QMAILHOME; where that cannot be, each session says so."""
    try:
        os.chdir(path)
    except OSError:
        pass


def _base(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The environment of every connection, before what is its own."""
    base = accepted.without_names(environ)
    for name in sockets.ACTIVATION:
        base.pop(name, None)
    ucspi.drop_coerced_locale(base)
    return base


def _fill_standard_descriptors() -> None:
    """Open /dev/null where 0, 1 or 2 is closed: else a socket would get that number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # the lowest that is free


def _settle_descriptors() -> None:
    """Put /dev/null on 0 and the log on 1, and close all others on exec."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        fd = int(name)
        if fd > 2:
            try:
                os.set_inheritable(fd, False)
            except OSError:
                pass  # it was the listing's own
