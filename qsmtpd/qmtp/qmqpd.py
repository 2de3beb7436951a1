"""The program qsmtpd-qmqpd."""

from __future__ import annotations

from ..main import run
from .qmqp import Qmqp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

USAGE = """\
usage: qsmtpd-qmqpd         serve the QMQP client on fds 0 and 1 (see qsmtpd-qmqpd(8))
       qsmtpd-qmqpd --check [--quiet]
                            read every control file, and say what is set and what is wrong
       qsmtpd-qmqpd --hooks print which plugin sits at which stage, in order
       qsmtpd-qmqpd --version
       qsmtpd-qmqpd --help
"""


def main(arguments: list[str]) -> NoReturn:
    """Serve the client, or do what an option says.  `arguments` do not hold its name."""
    run(Qmqp, "qsmtpd-qmqpd", USAGE, arguments)
