"""What the programs in bin/ start: launch.py PROGRAM ARGUMENT …

Run as a file, in an interpreter that is isolated and has not imported site.
"""

from __future__ import annotations

import sys


def launch(program: str, arguments: list[str]) -> None:
    """Run one of our programs; a link of any other name is qsmtpd."""
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
