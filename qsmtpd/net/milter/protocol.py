"""The milter protocol, version 6, as the side of the MTA: packets, and what they say.  Pure.

A packet is its length (4 bytes, big-endian, without these), a letter, and data; a
string ends with NUL.  Facts: Sendmail's libmilter (mfdef.h), and Postfix 3.7 as the MTA.
"""

from __future__ import annotations

from ...decision import is_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VERSION, OLDEST = 6, 2
#: Bytes of the body in one packet.
CHUNK = 65535
#: Bytes of an answer: libmilter's replaced body comes in pieces of CHUNK.
PACKET_LIMIT = 1 << 17

# What the MTA says (SMFIC_...).
NEGOTIATE, MACROS, CONNECT, HELO, MAIL, RCPT, DATA = b"O", b"D", b"C", b"H", b"M", b"R", b"T"
HEADER, END_OF_HEADER, BODY, END, ABORT, QUIT, UNKNOWN = b"L", b"N", b"B", b"E", b"A", b"Q", b"U"

# What a milter answers (SMFIR_...): a verdict,
CONTINUE, ACCEPT, REJECT, TEMPFAIL, DISCARD, REPLY_CODE = b"c", b"a", b"r", b"t", b"d", b"y"
SHUTDOWN, CONNECTION_FAILURE = b"4", b"f"
# that it works on it, that it wants no more of the body,
PROGRESS, SKIP = b"p", b"s"
# or, at the end of a message, a change.
ADD_HEADER, INSERT_HEADER, CHANGE_HEADER, REPLACE_BODY, QUARANTINE = b"h", b"i", b"m", b"b", b"q"
ADD_RECIPIENT, ADD_RECIPIENT_PARAMETERS, DELETE_RECIPIENT, CHANGE_SENDER = b"+", b"2", b"-", b"e"

#: Which action it must have asked for to make a change (SMFIF_...).
ACTIONS = {
    ADD_HEADER: 0x01,
    INSERT_HEADER: 0x01,
    REPLACE_BODY: 0x02,
    ADD_RECIPIENT: 0x04,
    DELETE_RECIPIENT: 0x08,
    CHANGE_HEADER: 0x10,
    QUARANTINE: 0x20,
    CHANGE_SENDER: 0x40,
    ADD_RECIPIENT_PARAMETERS: 0x80,
}
CHANGES = 0xFF
#: The same in words.
ACTION_NAMES = {
    0x11: b"the header",
    0x02: b"the body",
    0x40: b"the sender",
    0x8C: b"the recipients",
    0x20: b"whether it is in quarantine",
}
SET_SYMBOLS = 0x100
ALL_ACTIONS = CHANGES | SET_SYMBOLS

#: What a milter does not want to be told, and what it does not answer (SMFIP_NO..., _NR_...).
SILENT = {
    CONNECT: 0x01,
    HELO: 0x02,
    MAIL: 0x04,
    RCPT: 0x08,
    BODY: 0x10,
    HEADER: 0x20,
    END_OF_HEADER: 0x40,
    UNKNOWN: 0x100,
    DATA: 0x200,
}
UNANSWERED = {
    HEADER: 0x80,
    CONNECT: 0x1000,
    HELO: 0x2000,
    MAIL: 0x4000,
    RCPT: 0x8000,
    DATA: 0x10000,
    UNKNOWN: 0x20000,
    END_OF_HEADER: 0x40000,
    BODY: 0x80000,
}
#: Since which version there are these.
_SINCE = {UNKNOWN: 3, DATA: 4}
CAN_SKIP, LEADING_SPACE = 0x400, 0x100000
#: All but SMFIP_RCPT_REJ: of a recipient that is refused no milter hears.
ALL_STEPS = sum(SILENT.values()) | sum(UNANSWERED.values()) | CAN_SKIP | LEADING_SPACE

#: The numbers of the stages for which a milter names the macros that it wants (SMFIM_...).
_SYMBOLS = (CONNECT, HELO, MAIL, RCPT, DATA, END, END_OF_HEADER)


class Options:
    """What was agreed: the bits of `actions` and `steps`, and `symbols`.

    The last maps a command to the names of the macros that are wanted with it.
    """

    __slots__ = ("version", "actions", "steps", "symbols")

    def __init__(
        self, version: int, actions: int, steps: int, symbols: Mapping[bytes, Sequence[bytes]]
    ) -> None:
        self.version = version
        self.actions = actions
        self.steps = steps
        self.symbols = symbols

    @property
    def wants_file(self) -> bool:
        """Can it change a message, or does it want to see it to the last blank?"""
        return bool(self.actions & CHANGES or self.steps & LEADING_SPACE)


class Answer:
    """One answer: its `code`, and what it carries.

    `strings` are those of a change, `index` that of a header line; of REPLY_CODE,
    `number` is the code, `status` the enhanced one or b"", and `text` the lines with LF
    between them; `text` is also the piece of a body, and the reason of a quarantine.
    """

    __slots__ = ("code", "index", "strings", "number", "status", "text")

    def __init__(
        self,
        code: bytes,
        strings: Sequence[bytes] = (),
        index: int = 0,
        number: int = 0,
        status: bytes = b"",
        text: bytes = b"",
    ) -> None:
        self.code = code
        self.strings = strings
        self.index = index
        self.number = number
        self.status = status
        self.text = text


# -- what the MTA says -------------------------------------------------------


def packet(code: bytes, data: bytes = b"") -> bytes:
    """A packet; `data` is what encode() makes of strings, or a piece of a body."""
    return (1 + len(data)).to_bytes(4, "big") + code + data


def encode(*strings: bytes) -> bytes:
    """Strings, which must not hold NUL: what stands behind one is left out."""
    return b"".join([string.partition(b"\0")[0] + b"\0" for string in strings])


def negotiate() -> bytes:
    """The first packet: what we can do."""
    numbers = (VERSION, ALL_ACTIONS, ALL_STEPS)
    return packet(NEGOTIATE, b"".join(number.to_bytes(4, "big") for number in numbers))


def macros(code: bytes, values: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The macros that belong to the next command."""
    pairs = [encode(symbol(name), value) for name, value in values]
    return packet(MACROS, code + b"".join(pairs))


def symbol(name: bytes) -> bytes:
    """A macro's name as it is sent: in braces where it is longer than a letter."""
    return name if len(name) == 1 else b"{%b}" % name


def connect(host: bytes, ip: bytes | None, port: int) -> bytes:
    """The data of CONNECT; `ip` is canonical, or None where it is not known.

    `host` is b"unknown" where it has no name: then the address stands for it.
    """
    if host == b"unknown" and ip is not None:
        host = b"[%b]" % ip
    if ip is None:
        return encode(host) + b"U"
    family = b"6" if b":" in ip else b"4"
    return encode(host) + family + port.to_bytes(2, "big") + encode(ip)


def path(address: bytes) -> bytes:
    """An address as MAIL and RCPT have it: in brackets, its local part quoted if need be."""
    box, at, domain = address.rpartition(b"@")
    if not at:
        box, domain = address, b""
    if box.translate(None, _ATOMS):
        box = b'"%b"' % box.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b"<%b%b%b>" % (box, at, domain)


def wire_body(text: bytes) -> bytes:
    """A piece of a body with LF line ends, as milters see it."""
    return text.replace(b"\n", b"\r\n")


# -- what a milter says ------------------------------------------------------


def packet_length(head: bytes) -> int:
    """The length of the packet that these 4 bytes begin.  Raises ValueError."""
    length = int.from_bytes(head, "big")
    if not 0 < length <= PACKET_LIMIT:
        raise ValueError(f"a packet of {length} bytes")
    return length


def parse_options(data: bytes) -> Options:
    """What a milter answers to negotiate(), without its letter.  Raises ValueError."""
    if len(data) < 12:
        raise ValueError("negotiates in too few bytes")
    version, actions, steps = (int.from_bytes(data[n : n + 4], "big") for n in (0, 4, 8))
    if not OLDEST <= version <= VERSION:
        raise ValueError(f"has version {version} of the protocol")
    if actions & ~ALL_ACTIONS:
        raise ValueError(f"wants actions that there are not: {actions & ~ALL_ACTIONS:#x}")
    symbols: dict[bytes, list[bytes]] = {}
    rest = data[12:]
    while rest:
        stage = int.from_bytes(rest[:4], "big")
        names, end, rest = rest[4:].partition(b"\0")
        if not end or stage >= len(_SYMBOLS):
            raise ValueError("names macros in a way that there is not")
        symbols[_SYMBOLS[stage]] = [
            name.removeprefix(b"{").removesuffix(b"}")
            for name in names.replace(b",", b" ").replace(b"\t", b" ").split(b" ")
            if name
        ]
    steps &= ALL_STEPS
    for command, first in _SINCE.items():
        if version < first:
            steps |= SILENT[command]
    return Options(version, actions, steps, symbols)


def parse_answer(code: bytes, data: bytes) -> Answer:
    """An answer.  Raises ValueError, saying what is wrong with it."""
    if code in _STRINGS:
        index = 0
        if code in (INSERT_HEADER, CHANGE_HEADER):
            if len(data) < 4:
                raise ValueError(f"{_shown(code)} without an index")
            index, data = int.from_bytes(data[:4], "big"), data[4:]
        least, most = _STRINGS[code]
        if not data.endswith(b"\0") or not least <= data.count(b"\0") <= most:
            raise ValueError(f"{_shown(code)} that has not its strings")
        return Answer(code, data[:-1].split(b"\0"), index)
    if code == REPLACE_BODY:
        return Answer(code, text=data)
    if code == QUARANTINE:
        return Answer(code, text=data.partition(b"\0")[0])
    if code == REPLY_CODE:
        return _parse_reply(data.partition(b"\0")[0])
    if code not in _BARE:
        raise ValueError(f"{_shown(code)}, which is no answer")
    if data:
        raise ValueError(f"{_shown(code)} with data")
    return Answer(code)


#: What a local part may have without quotes: atext and dots (RFC 5321, 4.1.2; RFC 6531, 3.3).
_ATOMS = (
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+-/=?^_`{|}~"
    + bytes(range(128, 256))
)
#: How many strings a change has: at least, at most.
_STRINGS = {
    ADD_HEADER: (2, 2),
    INSERT_HEADER: (2, 2),
    CHANGE_HEADER: (2, 2),
    ADD_RECIPIENT: (1, 1),
    DELETE_RECIPIENT: (1, 1),
    ADD_RECIPIENT_PARAMETERS: (1, 2),
    CHANGE_SENDER: (1, 2),
}
_BARE = frozenset(
    (CONTINUE, ACCEPT, REJECT, TEMPFAIL, DISCARD, SHUTDOWN, CONNECTION_FAILURE, PROGRESS, SKIP)
)


def _parse_reply(text: bytes) -> Answer:
    """`550 5.7.1 text`, in one line or several (smfi_setreply(), smfi_setmlreply())."""
    # Sendmail takes it as a format: `%%` stands for `%`.
    text = text.replace(b"%%", b"\0").replace(b"%", b"").replace(b"\0", b"%")
    lines = text.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    first = lines[0][:3]
    if not (len(first) == 3 and first.isdigit() and first[:1] in (b"4", b"5")):
        raise ValueError("a reply without a code")
    status = b""
    said = []
    for line in lines:
        if line[:3] != first or line[3:4] not in (b" ", b"-", b""):
            raise ValueError("a reply of lines that do not belong together")
        word, _, rest = line[4:].partition(b" ")
        if is_status(word) and word[:1] == first[:1]:
            status, line = word, line[:4] + rest
        said.append(line[4:])
    return Answer(REPLY_CODE, number=int(first), status=status, text=b"\n".join(said))


def _shown(code: bytes) -> str:
    return code.decode("ascii", "backslashreplace")
