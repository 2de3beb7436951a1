"""What the programs start.  As a file: launch.py PATH-OF-PROGRAM ARGUMENT …

In an interpreter that is isolated and has not imported site.  A file that is
run is compiled anew each time; so all the rest is elsewhere.
"""

from __future__ import annotations

import sys


def main(root: str, path: str, arguments: list[str]) -> None:
    """Start the program of this path, from the package in the folder `root` (with a slash)."""
    from qsmtpd import bytecode

    sys.meta_path.insert(0, bytecode.Finder(root))
    from qsmtpd import programs

    programs.start(path, arguments)


if __name__ == "__main__":
    folder = __file__.removesuffix("qsmtpd/launch.py")
    sys.path.append(folder)
    main(folder, sys.argv[1], sys.argv[2:])
