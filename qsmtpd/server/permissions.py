"""`qsmtpd-server --check`: what the user of -u can read, and then what `qsmtpd --check` says."""

from __future__ import annotations

import os
import sys

from ..config.files import USERS, fix_home, home
from ..diagnose import check as child
from ..diagnose.report import Report
from ..facts import ControlError
from ..net.ip import canonical
from ..net.tcprules import BEFORE
from . import imports, limits, sockets
from .accepted import without_names
from .names import ALLOWED
from .rules import Rules, denies
from .rules import variables as set_by
from .user import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .options import Options

#: How many faults of rules are said.
SAID_LIMIT = 10
#: The maximum number of rules that are checked, of those that set different things.
MOST_RULES = 1000


def check(options: Options, environ: Mapping[bytes, bytes]) -> int:
    """Write to descriptor 1 what is wrong; the exit status: 0 if nothing is wrong, else 1.

    After HUP the server reads everything as that user, so at the latest then a
    file that only root can read is missing.
    """
    nowhere = None
    try:
        if options.host != "-":  # so it is written where systemd has the sockets
            sockets.expect_address(options)
    except OSError as error:
        nowhere = error
    imports.at_start(options)  # as the server does, before it becomes that user
    try:
        become(options)
    except OSError as error:
        report = Report()
        report.wrong("-u, -g", f"{error.strerror}: start this check as root")
        return report.print()
    environ = dict(environ)
    fix_home(environ)  # now: what follows goes there
    folder = home(environ)
    rules = None
    if options.rules is not None:
        rules = Rules(os.fsencode(options.rules), options.rules_optional)
    report = _with_rules(options, environ, rules)
    problem = limits.too_few(options)
    if problem is not None:
        report.warn("--hold", problem)
    if nowhere is not None:
        report.wrong(f"{options.host} {options.port}", f"cannot listen there: {nowhere.strerror}")
    for where, why in (
        *_unreadable(folder + b"/control"),
        *_unreadable(folder + b"/plugins", wanted=False),
    ):
        report.wrong(where.removeprefix(os.fsdecode(folder) + "/"), why)
    for where in _python():
        report.warn(where, "this user cannot read it, and HUP may have to import something")
    return report.print()


def _with_rules(options: Options, environ: Mapping[bytes, bytes], rules: Rules | None) -> Report:
    """What `qsmtpd --check` says in each environment that the rules make.

    Who has no rule of its own has that of the empty key; where there is none,
    the environment is ours.  That comes first, if it is not refused, and what
    is the same for others is not said again.
    """

    def examine(variables: Mapping[bytes, bytes]) -> Report:
        # What is said of PROXY headers is as of clients: their rules are looked for behind them.
        report = child.examine(
            variables, options.checkpassword, options.quiet_check, options.protocol, False
        )
        by_name = variables.get(b"HELOCHECK", b"").rstrip() == b"="
        nameless = not options.remote_names and b"TCPREMOTEHOST" not in variables
        if by_name and nameless and b"RELAYCLIENT" not in variables:
            report.wrong("HELOCHECK", "= refuses everybody, for -H looks up no name")
        return report

    problem = None
    found: dict[bytes, bytes] = {}
    try:
        found = rules.all() if rules is not None else {}
    except ControlError as error:
        problem = error
    rules_found = dict(found)
    others = found.pop(b"", b"")
    served = [] if denies(others) else [(b"", others)]
    served += [(key, data) for key, data in found.items() if not denies(data)]
    if not served:
        report = Report(options.quiet_check)
        report.wrong("rules", f"{options.rules} refuses every client")
        _look_at_rules(report, found, options.remote_names)
        return report
    report = examine(_set(environ, served[0][1]))
    if problem is not None:
        report.wrong(problem.name, f"{problem.reason}, so every client is dropped")
    elif rules is not None:
        whose = os.fsdecode(served[0][0]) or "who has none of them"
        number = "1 client" if len(found) == 1 else f"{len(found)} clients"
        report.ok("rules", f"{options.rules}, of {number}; first is {whose}", "-x")
    _look_at_rules(report, rules_found, options.remote_names)
    seen = {served[0][1]}
    for key, data in served:
        if data not in seen:
            if len(seen) >= MOST_RULES:
                report.warn("rules", f"more than {MOST_RULES} that differ: not all were checked")
                break
            seen.add(data)
            report.add_others(examine(_set(environ, data)), "rule " + os.fsdecode(key))
    return report


def _look_at_rules(report: Report, found: Mapping[bytes, bytes], names: bool) -> None:
    """What is wrong with the rules themselves; `names`: clients' names are looked up."""
    problems = []
    for key, data in found.items():
        why = _why_never(key, names)
        if why is not None:
            problems.append(f"{os.fsdecode(key)} {why}")
        for name in BEFORE:
            if any(entry.startswith(b"+" + name + b"=") for entry in data.split(b"\0")):
                what = f"{os.fsdecode(key)} sets {name.decode('ascii')}, which no rule can"
                problems.append(what)
    for problem in problems[:SAID_LIMIT]:
        report.wrong("rule", problem)
    if len(problems) > SAID_LIMIT:
        report.wrong("rules", f"and {len(problems) - SAID_LIMIT} more like these")


def _why_never(key: bytes, names: bool) -> str | None:
    """Why no client can have the rule of this key, or None."""
    if key.startswith(b"="):
        if not names:
            return "is for a host name, which -H does not look up"
        if key.endswith(b".") or not ALLOWED.issuperset(key[1:]):
            return "is for what is no host name"
        return None
    if b"@" in key:
        return "is for an ident name, which is never asked for"
    if key == b"" or canonical(key) == key:
        return None
    numbers = key[:-1].split(b".")
    if key.endswith(b".") and len(numbers) < 4 and all(map(_is_byte, numbers)):
        return None
    if key.endswith(b":") and not key.strip(b"0123456789abcdef:"):
        return None
    return "is no address, nor the beginning of one up to a dot or colon"


def _is_byte(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 3 and b"%d" % int(text) == text and int(text) < 256


def _set(environ: Mapping[bytes, bytes], data: bytes) -> dict[bytes, bytes]:
    """The environment with what these instructions set."""
    return {**without_names(environ), **set_by(data)}


def _unreadable(folder: bytes, wanted: bool = True) -> Iterator[tuple[str, str]]:
    """Each file below a folder that we cannot read, and why.

    But for passwords, which a helper may have to itself: what they are for, is checked there.
    """

    def fail(error: OSError) -> None:
        if wanted or not isinstance(error, FileNotFoundError):
            failures.append(error)

    failures: list[OSError] = []
    for path, _, files in os.walk(folder, onerror=fail):
        for name in files:
            if USERS.encode("ascii") in name:
                continue
            try:
                os.close(os.open(path + b"/" + name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as error:
                fail(error)
    for failure in failures:
        yield os.fsdecode(failure.filename), failure.strerror or "unreadable"


def _python() -> Iterator[str]:
    """What of Python that user cannot read.

    What is ours is there all the same (see imports.py), but not what a plugin may want on HUP.
    """
    for what in (sys.executable, os.__file__, __file__):
        if not os.access(what, os.R_OK):
            yield what
