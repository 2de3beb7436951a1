"""The command line of starttls-probe(1)."""

from __future__ import annotations

import argparse
import ipaddress
import re

from .. import __version__

_NUMBER = re.compile(r"[0-9]{1,5}")


def address(text: str) -> tuple[str, int | None]:
    """HOST[:PORT], [HOST]:PORT for an IPv6 address: (host, port or None)."""
    if text.count(":") > 1 and not text.startswith("["):
        before, _, last = text.rpartition(":")
        if not _is_ipv6(text) or (_is_ipv6(before) and _NUMBER.fullmatch(last)):
            raise argparse.ArgumentTypeError(
                f"an IPv6 address or a port? write [ADDRESS] or [ADDRESS]:PORT: {text!r}"
            )
        return text, None
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not HOST[:PORT]: {text!r}")
    return match[1] or match[2], None if match[3] is None else _port(match[3])


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def listening(text: str) -> tuple[str, int]:
    """[ADDRESS:]PORT: (address, port), on the loopback interface if none is given."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    return host or "127.0.0.1", _port(port)


def _port(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"not a port: {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A time or a rate: a decimal number above 0 and at most 86400."""
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or not 0 < float(text) <= 86400:
        raise argparse.ArgumentTypeError(f"not a number from 0.001 to 86400: {text!r}")
    return float(text)


def count(text: str) -> int:
    """A number from 1 to 99."""
    if not re.fullmatch(r"[1-9][0-9]?", text):
        raise argparse.ArgumentTypeError(f"not a number from 1 to 99: {text!r}")
    return int(text)


def word(text: str) -> bytes:
    """Text that goes into a command: nothing in it may end the line."""
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"not printable: {text!r}")
    return text.encode()


def name(text: str) -> bytes:
    """A word that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return word(text)


_FOR_SERVERS = (
    *("--check", "--lmtp", "--rate", "--helo", "--user", "--password-file"),
    *("--slow", "--slow-limit", "--smuggling", "--from"),
)
_FOR_CLIENTS = ("--scenario", "--connections", "--name", "--ca", "--strict", "--wait")
_NEEDS = {"--password-file": "--user", "--slow-limit": "--slow"}


def without_effect(arguments: list[str], clients: bool) -> str:
    """What is wrong with options that would change nothing, or ""."""
    given = {argument.partition("=")[0] for argument in arguments}
    for option in _FOR_SERVERS if clients else _FOR_CLIENTS:
        if option in given:
            return f"{option} is {'not for' if clients else 'only for'} --listen"
    for option, other in _NEEDS.items():
        if option in given and other not in given:
            return f"{option} needs {other}"
    return ""


def parser() -> argparse.ArgumentParser:
    """The options, as in the manual page."""
    result = argparse.ArgumentParser(
        prog="starttls-probe",
        usage="%(prog)s [options] HOST[:PORT]\n       %(prog)s --listen [ADDR:]PORT [options]",
        description="Tests a mail server, or with --listen a mail client, for STARTTLS faults.",
        epilog="Exit status: 0 nothing found, 1 vulnerable, 2 not tested, 3 an error of its own; "
        "see starttls-probe(1).",
        allow_abbrev=False,
    )
    add = result.add_argument
    add("host", nargs="?", type=address, metavar="HOST[:PORT]", help="the server to test")
    add("--listen", type=listening, metavar="[ADDR:]PORT", help="test the clients that connect")
    add("--list", action="store_true", help="list and explain all checks and scenarios")
    add("--version", action="version", version=f"starttls-probe {__version__}")
    add("-v", "--verbose", action="store_true", help="show the evidence for every check")
    add("--json", action="store_true", help="one JSON object instead of text")
    add("--timeout", type=seconds, default=20.0, metavar="SECONDS", help="for one answer (20)")

    server = result.add_argument_group("testing a server")
    add = server.add_argument
    add("--check", action="append", metavar="NAME", help="run only this check (repeatable)")
    add("--lmtp", action="store_true", help="speak LMTP, not SMTP")
    add("--rate", type=seconds, default=2.0, metavar="N", help="connections per second (2)")
    add("--helo", type=name, default=b"", metavar="NAME", help="our name in EHLO")
    add("--user", type=name, default=b"", metavar="NAME", help="also test AUTH as this user")
    add("--password-file", metavar="FILE", help="its first line is the password")
    add("--slow", action="store_true", help="also test for a stalled handshake")
    add(
        "--slow-limit",
        type=seconds,
        default=330.0,
        metavar="SECONDS",
        help="wait so long for it to end (330)",
    )
    add(
        "--smuggling",
        type=name,
        default=b"",
        metavar="RECIPIENT",
        help="also test the end of data: sends messages to this address",
    )
    add("--from", type=word, default=b"", dest="sender", metavar="SENDER", help="for MAIL (<>)")

    client = result.add_argument_group("testing a client")
    add = client.add_argument
    add("--scenario", action="append", metavar="NAME", help="play only this one (repeatable)")
    add("--connections", type=count, default=1, metavar="N", help="per scenario (1)")
    add("--name", type=name, default=b"localhost", help="the certificate's name (localhost)")
    add("--ca", metavar="FILE", help="write the authority's certificate here")
    add("--strict", action="store_true", help="the client was told to insist on TLS")
    add("--wait", type=seconds, default=3600.0, metavar="SECONDS", help="for a client (3600)")
    return result
