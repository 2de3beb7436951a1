"""The program qsmtpd-qmtpd."""

from __future__ import annotations

from ..main import run
from .qmtp import Qmtp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

USAGE = """\
usage: qsmtpd-qmtpd         serve the QMTP client on fds 0 and 1 (see qsmtpd-qmtpd(8))
       qsmtpd-qmtpd --check [--quiet]
                            read every control file, and say what is set and what is wrong
       qsmtpd-qmtpd --hooks print which plugin sits at which stage, in order
       qsmtpd-qmtpd --version
       qsmtpd-qmtpd --help
"""


def main(arguments: list[str]) -> NoReturn:
    """Serve the client, or do what an option says.  `arguments` do not hold its name."""
    run(Qmtp, "qsmtpd-qmtpd", USAGE, arguments)
