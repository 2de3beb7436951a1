"""control/authmechanisms and AUTHMECHANISMS: the mechanisms of AUTH, by their names."""

from __future__ import annotations

from ..facts import ControlError
from ..sasl import CHECKPASSWORD, MECHANISMS, SCRAM, TOKENS
from .settings import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings

    #: By whom a mechanism asks (see sasl): the program with its arguments, empty where it is none.
    Programs = dict[str, list[bytes]]

FILE, VARIABLE = "authmechanisms", "AUTHMECHANISMS"
#: The helper of our own.
SCRAM_PROGRAM = b"qsmtpd-checkpassword --scram"
#: What SMTPAUTH names by itself: with it, the words for CRAM-MD5 would say two things.
_USUAL = (b"LOGIN", b"PLAIN")

_LACKS = {
    CHECKPASSWORD: "there is no checkpassword program in the arguments",
    SCRAM: "there is no program",
    TOKENS: "there is no program",
}


def available(
    settings: Settings, usual: tuple[bytes, ...], programs: Programs
) -> tuple[bytes, ...]:
    """Those of them for which there is somebody to ask.  Raises ControlError.

    `usual` are those of SMTPAUTH; `programs` gets those that they ask.
    """
    names = named(settings)
    if usual != _USUAL:
        raise ControlError("SMTPAUTH", "names mechanisms, and so does " + where(settings))
    asks = {MECHANISMS[name].asks for name in names}
    if SCRAM in asks:
        helper = settings.line("scramprogram", "SCRAMPROGRAM")
        programs[SCRAM] = (SCRAM_PROGRAM if helper is None else helper).split()
    if TOKENS in asks:
        programs[TOKENS] = (settings.line("tokenprogram", "TOKENPROGRAM") or b"").split()
    return tuple(name for name in names if lacks(name, programs) is None)


def lacks(name: bytes, programs: Programs) -> str | None:
    """What this mechanism wants and is not there; None where nothing is missing."""
    asks = MECHANISMS[name].asks
    if asks not in _LACKS or programs[asks]:
        return None
    return _LACKS[asks]


def are_named(settings: Settings) -> bool:
    """Is there such a setting?  Raises ControlError."""
    return settings.is_set(VARIABLE) or settings.files.has(FILE)


def where(settings: Settings) -> str:
    """The name of the setting."""
    return VARIABLE if settings.is_set(VARIABLE) else "control/" + FILE


def named(settings: Settings) -> tuple[bytes, ...]:
    """The names in their order, in capitals.  Raises ControlError.

    In the variable they have blanks between them, and in the file blanks or line ends.
    """
    source, text = where(settings), settings.variable(VARIABLE)
    if text is None:
        text = b" ".join(settings.lines(FILE) or ())
    found: list[bytes] = []
    for word in text.split():
        name = word.upper()
        if name not in MECHANISMS:
            known = ", ".join(known.decode("ascii") for known in MECHANISMS)
            raise ControlError(source, f"has {shown(word)}, none of {known}")
        if name in found:
            raise ControlError(source, f"has {shown(word)} twice")
        found.append(name)
    if not found:
        raise ControlError(source, "names no mechanism")
    return tuple(found)
