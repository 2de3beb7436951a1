"""The start of starttls-probe: its packages from outside are made importable first."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(arguments: list[str]) -> NoReturn:
    """Run the program with these arguments, which do not hold its name."""
    import site

    site.main()  # our scripts start Python without it, and so without its packages
    try:
        from .program import main as run

        run(arguments)
    except SystemExit:
        raise
    except BaseException as error:  # a panic of the package cryptography is no Exception
        import sys

        from .errors import UNEXPECTED, unexpected

        print(f"starttls-probe: error: {unexpected(error)}", file=sys.stderr)
        sys.exit(UNEXPECTED)
