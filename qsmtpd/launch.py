"""What the programs in bin/ start: launch.py PATH-OF-PROGRAM ARGUMENT …

Run as a file, in an interpreter that is isolated and has not imported site.
"""

from __future__ import annotations

import os
import sys

_PROGRAMS = (
    "qsmtpd",
    "qsmtpd-checkpassword",
    "qsmtpd-maildir",
    "qsmtpd-server",
    "starttls-probe",
)
_LINKS = 40  # path_resolution(7): so many are followed


def named(path: str) -> str:
    """The program that this path stands for: the first of our names on the way that it links to.

    In a checkout the programs are links themselves, so not the last name
    counts.  What has none of our names is qsmtpd.
    """
    for _ in range(_LINKS):
        name = path.rpartition("/")[2]
        if name in _PROGRAMS:
            return name
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            break  # no link
    return "qsmtpd"


def launch(path: str, arguments: list[str]) -> None:
    """Run one of our programs."""
    program = named(path)
    if program == "qsmtpd-server":
        from qsmtpd import server

        server.main(arguments)
    elif program == "qsmtpd-maildir":
        from qsmtpd import maildir

        maildir.main(arguments)
    elif program == "starttls-probe":
        import site

        site.main()  # it needs a package from outside, and its start need not be quick
        from qsmtpd.probe import main as probe

        probe.main(arguments)
    elif program == "qsmtpd-checkpassword":
        from qsmtpd import checkpassword

        checkpassword.main(arguments)
    else:
        from qsmtpd import main

        main.main(arguments)


if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0] + "/..")
    launch(sys.argv[1], sys.argv[2:])
