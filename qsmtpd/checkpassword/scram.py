"""qsmtpd-checkpassword --scram: the server's side of SCRAM-SHA-256, for a client on 0 and 1.

It reads the two messages of a client, each with a LF, and writes the server's.
Nobody who starts it sees a key; and what it says of a user who is not there, or
has no entry of this kind, is made up, and the same at each time.
"""

from __future__ import annotations

import binascii
import hmac
import os

from ..config.files import ControlFiles
from ..facts import ControlError
from ..smtp.sasl import Malformed, scram
from . import users

#: The maximum of a message (bytes); AUTH allows for less.
LIMIT = 16384
NONCE_SIZE = 18  # bytes of it at random
ACCEPTED, REFUSED = 0, 1


def serve(files: ControlFiles) -> int:
    """Carry out one exchange; return the exit status.  Raises ControlError."""
    content = files.read(users.FILE)
    if content is None:
        raise ControlError("control/" + users.FILE, "is not there")
    known = users.parse(content)
    if not known.seed:
        raise ControlError("control/" + users.FILE, "has nobody with --scram")
    lines = _Lines()
    try:
        first = scram.ClientFirst(lines.read())
        keys, is_known = find(known, first.user)
        nonce = binascii.b2a_base64(os.urandom(NONCE_SIZE), newline=False)
        server = scram.Server(first, nonce, keys)
        if first.binds or first.identity not in (b"", first.user):
            return REFUSED
        lines.write(server.challenge)
        signature = server.verify(lines.read())
    except Malformed:
        return REFUSED
    if signature is None or not is_known:
        return REFUSED
    lines.write(signature)
    return ACCEPTED


def find(known: users.Users, name: bytes) -> tuple[scram.Keys, bool]:
    """The keys of this user, and whether there is one.  It takes the same time for each name.

    The salt of one who is not there is made of the name with the file's seed,
    so that only who reads the file can tell it from another.
    """
    salt = hmac.digest(known.seed, name, "sha256")[: users.SALT_SIZE]
    made_up = scram.Keys(users.ITERATIONS, salt, os.urandom(scram.SIZE), os.urandom(scram.SIZE))
    entry = known.get(name)
    return (entry.keys, True) if isinstance(entry, users.Scram) else (made_up, False)


class _Lines:
    """Descriptors 0 and 1.  What is no line is Malformed."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self) -> bytes:
        """The next line, without its LF."""
        while b"\n" not in self._rest:
            part = os.read(0, LIMIT) if len(self._rest) < LIMIT else b""
            if not part:
                raise Malformed
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def write(self, line: bytes) -> None:
        view = memoryview(line + b"\n")
        while view:
            view = view[os.write(1, view) :]
