"""starttls-probe(1): is your server, or your client, open to it?"""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from typing import NoReturn

from . import report, runner
from .arguments import parser, without_effect
from .check import Check, Result, exit_status
from .checks import CHECKS, FIRST
from .errors import UNEXPECTED, unexpected
from .listen.scenarios import SCENARIOS, Scenario
from .listen.server import Manner, listen, play
from .protocol import LMTP, SMTP, Protocol
from .target import Pace, Target

_UNTESTED = 2


def main(arguments: list[str]) -> NoReturn:
    """Run the program with these arguments."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _interrupted()
    except _Unusable as error:
        status = _complain(str(error))
    except OSError as error:
        # All others are caught where they come from.
        if not isinstance(error, BrokenPipeError):
            _complain(f"the report cannot be written: {_reason(error)}")
        # Nothing may be left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _UNTESTED
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    options = parser()
    given = options.parse_args(arguments)
    if given.list:
        _list()
        return 0
    if (given.host is None) == (given.listen is None):
        options.error("give either HOST[:PORT] or --listen [ADDR:]PORT")
    wrong = without_effect(arguments, clients=given.host is None)
    if wrong:
        options.error(wrong)
    return _test_clients(given) if given.host is None else _test_server(given)


class _Unusable(Exception):
    """What the user gave cannot be used; the text says why."""


def _complain(text: str) -> int:
    print(f"starttls-probe: error: {text}", file=sys.stderr)
    return _UNTESTED


def _interrupted() -> int:
    print("starttls-probe: interrupted", file=sys.stderr)
    return _UNTESTED


def _reason(error: OSError) -> str:
    """What the system calls it; Python's text may say more than that."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _list() -> None:
    for title, entries in (("Checks", (FIRST, *CHECKS)), ("Scenarios", SCENARIOS)):
        print(f"{title}:\n")
        for entry in entries:
            print(entry.name)
            print(report.paragraph(entry.explanation, "    ") + "\n")


# -- a server ----------------------------------------------------------------


def _test_server(given: argparse.Namespace) -> int:
    protocol = LMTP if given.lmtp else SMTP
    host, port = given.host
    checks = _selected(given, protocol)
    options = {check.option for check in checks}
    target = Target(
        host,
        protocol.port if port is None else port,
        protocol,
        timeout=given.timeout,
        slow=given.slow_limit if given.slow else 0,
        user=given.user,
        password=_password(given) if given.user and options & _AUTHENTICATED else b"",
        recipient=given.smuggling,
        sender=given.sender,
        helo=given.helo,
        pace=Pace(given.rate),
    )
    names = [check.name for check in (FIRST, *checks)]
    return _show(
        given,
        {"mode": "server", "host": host, "port": target.port, "protocol": protocol.name},
        _plan(target, len(names), given.rate, options),
        names,
        frozenset(check.name for check in checks if check.option or given.check),
        runner.run(target, checks),
    )


#: The checks with these options use the password.
_AUTHENTICATED = {"--user", "--smuggling"}


def _selected(given: argparse.Namespace, protocol: Protocol) -> list[Check]:
    """The checks to run: those the user named, or all whose option is given."""
    options = {"": True, "--user": given.user, "--slow": given.slow, "--smuggling": given.smuggling}
    known = [check for check in CHECKS if protocol in check.protocols]
    if given.check is None:
        return [check for check in known if options[check.option]]
    _all_known(given.check, [FIRST.name, *(check.name for check in known)])
    wanted = [check for check in known if check.name in given.check]
    for check in wanted:
        if not options[check.option]:
            raise _Unusable(f"--check {check.name} needs {check.option}")
    return wanted


def _plan(target: Target, checks: int, rate: float, options: set[str]) -> str:
    """What is about to be done, for the owner of the server to read."""
    parts = [
        f"Testing {target.host} port {target.port} ({target.protocol.name}): "
        f"{report.counted(checks, 'check')}, one to four connections for each, "
        f"at most {rate:g} per second.",
        f"Messages will be sent to {target.recipient.decode()}."
        if "--smuggling" in options
        else "No message is sent.",
    ]
    if "--user" in options:
        parts.append("The password is sent in clear if the server takes it so.")
    if "--slow" in options:
        parts.append(f"One check waits up to {target.slow:g} s.")
    return " ".join(parts)


def _password(given: argparse.Namespace) -> bytes:
    if given.password_file is None:
        try:
            with warnings.catch_warnings():
                # It would read the password from anywhere, and show it.
                warnings.simplefilter("error", getpass.GetPassWarning)
                password = getpass.getpass().encode()
        except (EOFError, getpass.GetPassWarning) as error:
            raise _Unusable("no terminal to ask for the password; see --password-file") from error
    else:
        try:
            with open(given.password_file, "rb") as file:
                password = file.readline(1024).rstrip(b"\r\n")
        except OSError as error:
            raise _Unusable(f"{given.password_file}: {_reason(error)}") from error
    if not password:
        raise _Unusable("the password is empty")
    return password


# -- a client ----------------------------------------------------------------


def _test_clients(given: argparse.Namespace) -> int:
    # Imported here: it needs a package from outside, and testing a server does not.
    try:
        from .listen import certificates
    except ImportError as error:
        raise _Unusable("--listen needs the Python package cryptography") from error
    address, port = given.listen
    scenarios = SCENARIOS
    if given.scenario is not None:
        _all_known(given.scenario, [scenario.name for scenario in SCENARIOS])
        scenarios = tuple(one for one in SCENARIOS if one.name in given.scenario)
    try:
        made = certificates.make([given.name.decode(), address])
    except ValueError as error:
        raise _Unusable(f"no certificate can be made for this name: {error}") from error
    manner = Manner(given.strict, given.connections, given.wait, timeout=given.timeout)
    try:
        if given.ca is not None:
            with open(given.ca, "wb") as file:
                file.write(made.authority)
    except OSError as error:
        raise _Unusable(f"{given.ca}: {_reason(error)}") from error
    try:
        listener = listen(address, port)
    except OSError as error:
        raise _Unusable(f"cannot listen on {address} port {port}: {_reason(error)}") from error
    with listener:
        port = listener.getsockname()[1]
        return _show(
            given,
            {"mode": "client", "address": address, "port": port},
            _invitation(address, port, scenarios, given),
            [scenario.name for scenario in scenarios],
            frozenset(given.scenario or ()),
            play(listener, scenarios, made, manner),
        )


def _invitation(
    address: str, port: int, scenarios: tuple[Scenario, ...], given: argparse.Namespace
) -> str:
    """What is about to be done, and what the client has to do for it."""
    messages = report.counted(len(scenarios), "message")
    order = ", one after the other" if len(scenarios) > 1 else ""
    authority = f"Its authority is in {given.ca}. " if given.ca else ""
    return (
        f"Listening on {address} port {port} with a certificate for {given.name.decode()}. "
        f"{authority}Let the client send {messages}{order}: "
        f"{', '.join(scenario.name for scenario in scenarios)}. No message is taken."
    )


# -- both --------------------------------------------------------------------


def _all_known(wanted: list[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            raise _Unusable(f"no such name: {name} (see --list)")


def _show(
    given: argparse.Namespace,
    subject: dict[str, str | int],
    plan: str,
    names: list[str],
    asked: frozenset[str],
    running: Iterator[Result],
) -> int:
    """Report the results as they come; return the exit status.

    `asked` are those of the names that the user asked for.
    """
    text = report.Text(sys.stderr if given.json else sys.stdout, given.verbose)
    text.announce(plan)
    results: list[Result] = []
    status = None
    try:
        for name in names:
            text.progress(name)
            try:
                result = next(running)
            except Exception as error:
                text.done()
                _complain(f"{name}: {unexpected(error)}")
                status = UNEXPECTED
                break
            results.append(result)
            if not given.json:
                text.result(result)
    except KeyboardInterrupt:
        text.done()
        status = _interrupted()
    if status is None:
        status = exit_status(results, asked)
    if given.json:
        text.done()
        print(report.as_json(subject, results, status))
    else:
        text.summary(results, status)
    return status
