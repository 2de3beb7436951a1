"""The command line: tcpserver's options, and those that tcpserver does not have."""

from __future__ import annotations

import os

from ..session.dialogue import Smtp
from . import arguments as command_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..session.protocol import Conversation

USAGE = """\
usage: qsmtpd-server [-146dDhHoOpPqQrRUvX] [-b backlog] [-c limit] [-C clientlimit]
                     [-g group] [-l localname] [-t seconds] [-u user] [-x rules.cdb]
                     [--drain seconds] [--hold number] [--protocol name]
                     [--sessions number] [--spare number]
                     host port [checkpassword-program subprogram ...]
       qsmtpd-server --check [--quiet] [options] host port [checkpassword-program ...]
       qsmtpd-server --help | --version
"""
HELP = """
  -1                 print the port, once connections can be made
  -4, -6             listen on an IPv4 address of the host, or on an IPv6 one
  -b backlog         connections that may wait to be accepted (1000)
  -c limit           sessions at once (40); other clients wait
  -C clientlimit     connections of one IPv4 address or IPv6 /64, held or at work (20); more
                     are told 421; 0: no limit; loopback and RELAYCLIENT have none
  -d, -D             send with TCP's delay (default), or without
  -g group           change to this group: a name or a number
  -h, -H             look up the client's name (default), or do not
  -l localname       TCPLOCALHOST; without it, the name of the local address is looked up
  -o, -O             leave IP options alone, or remove them (default)
  -p, -P             take only a client's name that has its address, or any (default)
  -q, -Q, -v         log nothing of the server, its errors (default), or its status as well
  -r, -R, -t seconds taken and not heeded: ident is never asked
  -u user            change to this user; a name brings its group, a number does not
  -U                 change to the user and group in UID and GID
  -x rules.cdb       follow the rules that tcprules has compiled
  -X                 a rules file that is not there has no rules
  --drain seconds    how long TERM waits for transactions to end (0; as process 1: 8)
  --hold number      clients without a process, who have said nothing yet or wait (1000)
  --protocol name    what is spoken: smtp (default), qmtp or qmqp
  --sessions number  connections that a process serves, one after the other (100)
  --spare number     processes forked ahead of need (0)
  --check            become that user, and say what it cannot read and what is wrong
  --quiet            with --check: leave out what is ok and the default
  --help             print this
  --version          print the version
"""
_LETTERS = "146dDhHoOpPqQrRUvXb:c:C:g:l:t:u:x:"
_WORDS = ["drain=", "hold=", "protocol=", "sessions=", "spare=", "check", "quiet"]
QUIET, ERRORS, STATUS = 0, 1, 2


class UsageError(Exception):
    """What is wrong with the command line."""


class Options:
    """The command line.  Raises UsageError.

    `environ` is asked for UID and GID where -U says so.
    """

    def __init__(self, arguments: list[str], environ: Mapping[bytes, bytes]) -> None:
        self.check = False
        self.quiet_check = False
        self.verbose = ERRORS
        self.print_port = False
        #: Of one that does not fit in, Linux forgets the last packet of the handshake: then the
        #: client is connected, and waits for a greeting that never comes.
        self.backlog = 1000
        self.limit = 40  # sessions at once
        self.client_limit = 20  # connections of one address or /64; 0: no limit
        self.protocol: type[Conversation] = Smtp
        self.hold = 1000  # connections without a process
        self.local_name: str | None = None
        self.rules: str | None = None
        self.rules_optional = False  # -X
        self.uid: int | None = None
        self.gid: int | None = None
        self.family = 0  # 4, 6, or 0: what the host is
        self.remote_names = True
        self.paranoid = False
        self.no_delay = False
        self.kill_ip_options = True
        self.ident = False
        self.ident_timeout = 0
        self.sessions = 100  # per process
        self.spare = 0  # processes forked ahead of need (man page: what it gains and costs)
        # Seconds for mail transactions after TERM.  Docker and others kill after 10.
        self.drain = 8 if os.getpid() == 1 else 0
        self._gid_of_user: int | None = None
        try:
            pairs, rest = command_line.split(arguments, _LETTERS, _WORDS)
        except ValueError as error:
            raise UsageError(str(error)) from error
        for option, value in pairs:
            self._set(option, value, environ)
        if self.gid is None:
            self.gid = self._gid_of_user
        if self.quiet_check and not self.check:
            raise UsageError("--quiet is for --check")
        if len(rest) < 2 or not all(rest[:2]):  # an empty port would be any that is free
            raise UsageError("host and port are wanted")
        self.host, self.port = rest[:2]
        if self.port.isdigit():
            self.port = str(_number("port", self.port, 0, 65535))
        self.checkpassword = [os.fsencode(word) for word in rest[2:]]
        if self.checkpassword and not self.protocol.asks_passwords:
            raise UsageError(f"{rest[2]!r}: this protocol has no AUTH")

    def _set(self, option: str, value: str, environ: Mapping[bytes, bytes]) -> None:
        if option in _SWITCHES:
            for name, setting in _SWITCHES[option].items():
                setattr(self, name, setting)
        elif option in _NUMBERS:
            name, least = _NUMBERS[option]
            setattr(self, name, _number(option, value, least))
        elif option == "-l":
            self.local_name = value
        elif option == "--protocol":
            self.protocol = _protocol(value)
        elif option == "-x":
            self.rules = value
        elif option == "-u":
            self.uid, self._gid_of_user = _user(value)
        elif option == "-g":
            self.gid = _group(value)
        else:
            assert option == "-U"
            self.uid = _number("UID", os.fsdecode(environ.get(b"UID", b"")), 1, _MOST_ID)
            self.gid = _number("GID", os.fsdecode(environ.get(b"GID", b"")), 1, _MOST_ID)


_SWITCHES: dict[str, dict[str, object]] = {
    "--check": {"check": True},
    "--quiet": {"quiet_check": True},
    "-1": {"print_port": True},
    "-4": {"family": 4},
    "-6": {"family": 6},
    "-d": {"no_delay": False},
    "-D": {"no_delay": True},
    "-h": {"remote_names": True},
    "-H": {"remote_names": False},
    "-o": {"kill_ip_options": False},
    "-O": {"kill_ip_options": True},
    "-p": {"paranoid": True},
    "-P": {"paranoid": False},
    "-q": {"verbose": QUIET},
    "-Q": {"verbose": ERRORS},
    "-r": {"ident": True},
    "-R": {"ident": False},
    "-v": {"verbose": STATUS},
    "-X": {"rules_optional": True},
}
#: Option -> the setting, and its least value.
_NUMBERS = {
    "-b": ("backlog", 1),
    "-c": ("limit", 1),
    "-C": ("client_limit", 0),
    "-t": ("ident_timeout", 0),  # has no effect
    "--drain": ("drain", 0),
    "--hold": ("hold", 0),
    "--sessions": ("sessions", 1),
    "--spare": ("spare", 0),
}
_MOST_ID = 2**32 - 2


def _protocol(value: str) -> type[Conversation]:
    """The protocol of this name.  Raises UsageError."""
    if value == "qmtp":
        from ..qmtp.qmtp import Qmtp

        return Qmtp
    if value == "qmqp":
        from ..qmtp.qmqp import Qmqp

        return Qmqp
    if value != "smtp":
        raise UsageError("--protocol wants one of smtp, qmtp, qmqp")
    return Smtp


def _user(value: str) -> tuple[int, int | None]:
    """A number, or a name -> the user, and the group that is a name's.  Raises UsageError."""
    if value.isdigit():
        return _number("-u", value, 1, _MOST_ID), None
    import pwd

    try:
        user = pwd.getpwnam(value)
    except (KeyError, ValueError):
        raise UsageError(f"-u {value}: there is no such user") from None
    if 0 in (user.pw_uid, user.pw_gid):
        raise UsageError(f"-u {value}: this user or its group is root")
    return user.pw_uid, user.pw_gid


def _group(value: str) -> int:
    """A number, or a name -> the group.  Raises UsageError."""
    if value.isdigit():
        return _number("-g", value, 1, _MOST_ID)
    import grp

    try:
        group = grp.getgrnam(value).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"-g {value}: there is no such group") from None
    if group == 0:
        raise UsageError(f"-g {value}: this group is root's")
    return group


def _number(option: str, value: str, least: int, most: int = 999_999_999) -> int:
    # int() would take "1_000", " +5 " and digits of other scripts.
    if not (value.isascii() and value.isdigit() and len(value) <= 10):
        raise UsageError(f"{option} wants a number")
    if not least <= int(value) <= most:
        raise UsageError(f"{option} wants a number from {least} to {most}")
    return int(value)
