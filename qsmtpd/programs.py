"""Which of our programs is meant, and its start."""

from __future__ import annotations

import gc
import posix as os

PROGRAMS = (
    "qsmtpd",
    "qsmtpd-checkpassword",
    "qsmtpd-maildir",
    "qsmtpd-server",
    "starttls-probe",
)
LINKS = 40  # path_resolution(7): so many are followed


def named(path: str) -> str:
    """The program that this path stands for: the first of our names on the way that it links to.

    In a checkout some programs are links themselves, so not the last name
    counts.  What has none of our names is qsmtpd.
    """
    for _ in range(LINKS):
        folder, slash, name = path.rpartition("/")
        if name in PROGRAMS:
            return name
        try:
            link = os.readlink(path)
        except OSError:
            break  # no link
        path = link if link.startswith("/") else folder + slash + link
    return "qsmtpd"


def start(path: str, arguments: list[str]) -> None:
    """Run the program that this path stands for."""
    program = named(path)
    if program == "qsmtpd":
        # What is imported stays: to look it through for garbage is a waste.
        gc.disable()
        from . import main

        gc.freeze()
        gc.enable()
        main.main(arguments)
    elif program == "qsmtpd-server":
        from .server import main as server

        server.main(arguments)
    elif program == "qsmtpd-maildir":
        from . import maildir

        maildir.main(arguments)
    elif program == "qsmtpd-checkpassword":
        from .checkpassword import main as checkpassword

        checkpassword.main(arguments)
    elif program == "starttls-probe":
        import site

        site.main()  # it needs a package from outside, and its start need not be quick
        from .probe import main as probe

        probe.main(arguments)
