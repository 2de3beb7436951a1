"""SASLprep (RFC 4013): the one form of a password, of which clients of SCRAM make their keys.

What is ASCII is its own; for the rest there is scramp, by which the names and
passwords of PostgreSQL's clients are prepared, too.
"""

from __future__ import annotations

from .. import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class NoLibrary(Exception):
    """scramp cannot be imported."""


def prepared(text: bytes) -> bytes | None:
    """A name or a password, prepared; None for what has no such form.  Raises NoLibrary."""
    if text.isascii():
        return None if any(byte < 32 or byte == 127 for byte in text) else text
    saslprep, refused = _library()
    try:
        return saslprep(text.decode("utf-8")).encode("utf-8") or None
    except (UnicodeDecodeError, refused):
        return None


def prepared_or_not(text: bytes) -> bytes | None:
    """The same for a login; without the library None, and a line on standard error."""
    try:
        return prepared(text)
    except NoLibrary as error:
        log.write(
            b"qsmtpd-checkpassword: a password is not ASCII, and for users of SCRAM it takes "
            + str(error).encode("ascii", "backslashreplace")
        )
        return None


def _library() -> tuple[Callable[[str], str], type[Exception]]:
    """Its function, and what that raises.  Raises NoLibrary."""
    try:
        try:
            import scramp
        except ImportError:
            # Our launcher started Python without site, and so without its packages.
            import site

            site.main()
            import scramp
        from scramp.core import saslprep
    except ImportError as error:
        raise NoLibrary(f"Python's scramp: {error}") from None
    return saslprep, scramp.ScramException
