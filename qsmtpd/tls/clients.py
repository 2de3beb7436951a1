"""Clients by their certificates: the entries of control/tlsclients."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import ControlError

_OF_NOTHING = (
    b"0" * 64,
    b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # SHA-256 of b""
)


def parse(
    settings: Settings, entries: list[bytes], wrong: list[ControlError]
) -> dict[bytes, bytes]:
    """Who is listed: a fingerprint or an address, and the user that is named for it, or b"".

    An entry that makes no sense is left out, and in `wrong`.
    """
    found: dict[bytes, bytes] = {}
    for entry in entries:
        try:
            client, user = _entry(entry)
            if found.setdefault(client, user) != user:
                raise ValueError("names a client that another user is named for")
        except ValueError as error:
            wrong.append(settings.bad_entry("tlsclients", entry, str(error)))
    return found


def _entry(entry: bytes) -> tuple[bytes, bytes]:
    """An entry of tlsclients: a client, and, with blanks between, a user.  Raises ValueError."""
    client, *users = entry.split()
    if len(users) > 1 or entry[:1] in b" \t":
        raise ValueError("is neither a client nor a client and a user")
    user = users[0] if users else b""
    if user.startswith(b"#"):
        raise ValueError("has a comment, which stands on a line of its own")
    if any(byte < 32 or byte == 127 for byte in user):
        raise ValueError("has a control character")
    return _client(client), user


def _client(entry: bytes) -> bytes:
    """The client of an entry: an address, or `sha256:` and a fingerprint, colons allowed.

    Raises ValueError.
    """
    if entry[:7].lower() == b"sha256:":
        known = fingerprint(entry[7:].replace(b":", b""))
        if known is None:
            raise ValueError("is no SHA-256 fingerprint of a certificate")
        return known
    if b"@" not in entry:
        raise ValueError("is neither an address nor begins with sha256:")
    return entry.lower()


def fingerprint(text: bytes) -> bytes | None:
    """The SHA-256 of a certificate in hex, in lower case; None for what cannot be one.

    Of no certificate some programs say all zeros (s6-tlsd-io with BearSSL), and
    who takes the hash of nothing has a hash, too.
    """
    text = text.lower()
    if len(text) != 64 or text.strip(b"0123456789abcdef") or text in _OF_NOTHING:
        return None
    return text
