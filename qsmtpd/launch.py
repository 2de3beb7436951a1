"""For bin/qsmtpd: launch.py PATH-OF-PROGRAM ARGUMENT …

In an interpreter that is isolated and has not imported site.  A file that is
run is compiled anew each time; so all the rest is elsewhere.
"""

import sys

if __name__ == "__main__":
    folder = __file__.removesuffix("qsmtpd/launch.py")
    sys.path.append(folder)
    from qsmtpd import bytecode

    bytecode.launch(folder, sys.argv[1], sys.argv[2:])
