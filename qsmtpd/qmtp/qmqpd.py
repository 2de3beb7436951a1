"""The program qsmtpd-qmqpd."""

from __future__ import annotations

from ..main import run
from .conversation import USAGE
from .qmqp import Qmqp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PROGRAM = "qsmtpd-qmqpd"


def main(arguments: list[str]) -> NoReturn:
    """Serve the client, or do what an option says.  `arguments` do not hold its name."""
    run(Qmqp, PROGRAM, USAGE.format(program=PROGRAM, protocol="QMQP"), arguments)
