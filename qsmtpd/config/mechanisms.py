"""control/authmechanisms and AUTHMECHANISMS: the mechanisms of AUTH, by their names."""

from __future__ import annotations

from ..facts import ControlError
from ..smtp.sasl import CHECKPASSWORD, MECHANISMS, SCRAM, TOKENS, is_name
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


def of_dovecot(
    settings: Settings, usual: tuple[bytes, ...], command: list[bytes]
) -> tuple[bytes, ...]:
    """Those of Dovecot's that are named; none: all of them.  Raises ControlError."""
    if command:
        what = "is set, and so is a checkpassword program in the arguments: only one can be asked"
        raise ControlError(
            "DOVECOTAUTH" if settings.is_set("DOVECOTAUTH") else "control/dovecotauth", what
        )
    if not are_named(settings):
        return () if usual == _USUAL else usual
    if usual != _USUAL:
        raise ControlError("SMTPAUTH", "names mechanisms, and so does " + where(settings))
    return named(settings, of_dovecot=True)


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


def named(settings: Settings, of_dovecot: bool = False) -> tuple[bytes, ...]:
    """The names in their order, in capitals.  Raises ControlError.

    In the variable they have blanks between them, and in the file blanks or line ends.
    Those `of_dovecot` are for Dovecot to know.
    """
    source, text = where(settings), settings.variable(VARIABLE)
    if text is None:
        text = b" ".join(settings.lines(FILE) or ())
    found: list[bytes] = []
    for word in text.split():
        name = word.upper()
        if of_dovecot and not is_name(name):
            raise ControlError(source, f"has {shown(word)}, which is no name of a mechanism")
        if name not in MECHANISMS and not of_dovecot:
            known = ", ".join(known.decode("ascii") for known in MECHANISMS)
            raise ControlError(source, f"has {shown(word)}, none of {known}")
        if name in found:
            raise ControlError(source, f"has {shown(word)} twice")
        found.append(name)
    if not found:
        raise ControlError(source, "names no mechanism")
    return tuple(found)
