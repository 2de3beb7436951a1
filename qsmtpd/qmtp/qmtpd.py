"""The program qsmtpd-qmtpd."""

from __future__ import annotations

from ..main import run
from .conversation import USAGE
from .qmtp import Qmtp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PROGRAM = "qsmtpd-qmtpd"


def main(arguments: list[str]) -> NoReturn:
    """Serve the client, or do what an option says.  `arguments` do not hold its name."""
    run(Qmtp, PROGRAM, USAGE.format(program=PROGRAM, protocol="QMTP"), arguments)
