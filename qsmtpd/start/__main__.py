"""For the scripts in bin/: __main__.py MODULE ARGUMENT …

The interpreter is isolated and has not imported site.  A file that is run is
compiled anew each time, so all the rest is in the package.
"""

import sys

if __name__ == "__main__":
    root = __file__.removesuffix("qsmtpd/start/__main__.py")
    sys.path.append(root)
    from qsmtpd.start import launch

    launch(root, sys.argv[1], sys.argv[2:])
