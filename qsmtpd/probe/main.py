"""starttls-probe(1): is your server, or your client, open to it?"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

from . import report, runner
from .arguments import parser
from .check import Check, Result, exit_status
from .checks import CHECKS, FIRST
from .listen.scenarios import SCENARIOS, Scenario
from .listen.server import Manner, listen, play
from .protocol import LMTP, SMTP
from .target import Pace, Target

_UNTESTED = 2


def main(arguments: list[str]) -> NoReturn:
    """Run the program with these arguments."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _UNTESTED
    except BrokenPipeError:
        # Who read the report has gone: nothing may be left to flush at exit.
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
    try:
        return _test_clients(given) if given.host is None else _test_server(given)
    except _Unusable as error:
        options.error(str(error))


class _Unusable(Exception):
    """What the user gave cannot be used; the text says why."""


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
    target = Target(
        host,
        protocol.port if port is None else port,
        protocol,
        timeout=given.timeout,
        slow=given.slow_limit if given.slow else 0,
        user=given.user,
        password=_password(given.password_file) if given.user else b"",
        recipient=given.smuggling,
        sender=given.sender,
        helo=given.helo,
        pace=Pace(given.rate),
    )
    checks = _selected(target, given.check)
    names = [check.name for check in (FIRST, *checks)]
    return _show(
        given,
        {"mode": "server", "host": host, "port": target.port, "protocol": protocol.name},
        _plan(target, len(names), given.rate),
        names,
        runner.run(target, checks),
    )


def _selected(target: Target, wanted: list[str] | None) -> list[Check]:
    """The checks to run: those the user named, or all whose option is given."""
    options = {"--user": target.user, "--slow": target.slow, "--smuggling": target.recipient}
    known = [check for check in CHECKS if target.protocol in check.protocols]
    if wanted is None:
        return [check for check in known if not check.option or options[check.option]]
    _all_known(wanted, [FIRST.name, *(check.name for check in known)])
    return [check for check in known if check.name in wanted]


def _plan(target: Target, checks: int, rate: float) -> str:
    """What is about to be done, for the owner of the server to read."""
    parts = [
        f"Testing {target.host} port {target.port} ({target.protocol.name}): {checks} checks, "
        f"one to four connections for each, at most {rate:g} per second.",
        f"Messages will be sent to {target.recipient.decode()}."
        if target.recipient
        else "No message is sent.",
    ]
    if target.user:
        parts.append("The password is sent in clear if the server takes it so.")
    if target.slow:
        parts.append(f"One check waits up to {target.slow:g} s.")
    return " ".join(parts)


def _password(path: str | None) -> bytes:
    if path is None:
        try:
            return getpass.getpass().encode()
        except EOFError as error:
            raise _Unusable("there is nobody to ask for the password") from error
    try:
        with open(path, "rb") as file:
            return file.readline(1024).rstrip(b"\r\n")
    except OSError as error:
        raise _Unusable(f"{path}: {error.strerror}") from error


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
        listener = listen(address, port)
    except OSError as error:
        raise _Unusable(str(error)) from error
    with listener:
        port = listener.getsockname()[1]
        return _show(
            given,
            {"mode": "client", "address": address, "port": port},
            _invitation(address, port, scenarios, given),
            [scenario.name for scenario in scenarios],
            play(listener, scenarios, made, manner),
        )


def _invitation(
    address: str, port: int, scenarios: tuple[Scenario, ...], given: argparse.Namespace
) -> str:
    """What is about to be done, and what the client has to do for it."""
    authority = f"Its authority is in {given.ca}. " if given.ca else ""
    return (
        f"Listening on {address} port {port} with a certificate for {given.name.decode()}. "
        f"{authority}Let the client send {len(scenarios)} messages, one after the other: "
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
    running: Iterator[Result],
) -> int:
    """Report the results as they come; return the exit status."""
    text = report.Text(sys.stderr if given.json else sys.stdout, given.verbose)
    text.announce(plan)
    results: list[Result] = []
    for name in names:
        text.progress(name)
        results.append(next(running))
        if not given.json:
            text.result(results[-1])
    if given.json:
        text.done()
        print(report.as_json(subject, results))
    else:
        text.summary(results)
    return exit_status(results)
