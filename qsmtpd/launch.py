"""What the programs in bin/ start: launch.py PATH-OF-PROGRAM ARGUMENT …

Run as a file, in an interpreter that is isolated and has not imported site.
What is run so is compiled anew each time; so all the rest is elsewhere.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Find our modules, and start the program."""
    root = __file__.removesuffix("qsmtpd/launch.py")
    sys.path.append(root)
    from qsmtpd import bytecode

    sys.meta_path.insert(0, bytecode.Finder(root))
    from qsmtpd import programs

    programs.start(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    main()
