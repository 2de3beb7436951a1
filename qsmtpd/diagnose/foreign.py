"""For `qsmtpd --check`: what is set as if it were a filter, and is none that runs."""

from __future__ import annotations

from ..config.session import plugin_specs, switches
from ..facts import ControlError
from ..policy import spec
from .elsewhere import NUMBERS, OFF, SETTINGS, SPAMCONTROLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.settings import Settings

_NUMBERS = frozenset(NUMBERS.split())
#: What means something only together with its filter.
COMPANIONS = {
    "control/mailfromrules": "localmfcheck",
    "control/mailfromrules.cdb": "localmfcheck",
    "control/tarpitdelay": "tarpit",
    "TARPITDELAY": "tarpit",
    "DROP_PRE_GREET": "greetdelay",
    "RBLHEADER": "rblsmtpd",
    "RECIPIENTS450": "recipients",
    "RECIPIENTSTIMEOUT": "recipients",
    "DOVECOTUSERSTIMEOUT": "dovecotusers",
    "DOVECOTDELIMITER": "dovecotusers",
    "RCPTCHECKRELAYCLIENT": "rcptcheck",
    "RCPTCHECKTIMEOUT": "rcptcheck",
    "SPPTIMEOUT": "spp",
    "control/dnsblthreshold": "dnsbl",
    "DNSBLTHRESHOLD": "dnsbl",
    "control/rhsblthreshold": "rhsbl",
    "RHSBLTHRESHOLD": "rhsbl",
    "control/spfpermerror": "spf",
    "SPFPERMERROR": "spf",
    "control/spfstage": "spf",
    "SPFSTAGE": "spf",
}
#: The filters that do something where nothing but their line says so.
ACTIVE = (*spec.ALWAYS, "localmfcheck", "mfdnscheck", "fcrdns", "loop", "qmqpqueue")


def plugins(settings: Settings) -> list[str]:
    """The names of the plugins that a session would have, in spec.  Raises ControlError."""
    return [line.name for line in plugin_specs(settings)]


def idle_switches(settings: Settings) -> list[tuple[str, str]]:
    """What is set and does nothing: (the file or variable, why).  Raises ControlError."""
    specs = plugin_specs(settings)
    running = {line.plugin for line in specs}
    found = [
        (name, "has been taken out, so that no mail is taken, or none that it lets in")
        for name in spec.ALWAYS
        if name not in running
    ]
    # A line of control/plugins can give a filter another file.
    used = {value for line in specs for value in line.options.values()}
    for advice, variables, files in SETTINGS:
        found += [(name, advice) for name in _variables(settings, variables.split())]
        found += [
            ("control/" + file, advice)
            for file in files.split()
            if file.encode("ascii") not in used and _is_on(settings, file)
        ]
    for switch, name in COMPANIONS.items():
        if name not in running and _is_there(settings, switch):
            found.append((switch, f"does nothing without its filter {name}, which is not on"))
    return found


def switched_off(settings: Settings) -> list[tuple[str, str]]:
    """What does nothing because somebody said so, or may have: as idle_switches().

    A line of control/plugins can be there for the clients whose rule sets the variable.
    """
    specs = plugin_specs(settings)
    running = {line.plugin for line in specs}
    found = [
        (switch, f"is set, but its filter {name} has been taken out by {spec.VARIABLE}")
        for name in spec.BUILT_IN
        if name not in running
        for switch in switches(name, settings)
    ]
    for line in specs:
        if line.plugin not in spec.BUILT_IN or line.plugin in ACTIVE:
            continue
        files, variables = spec.BUILT_IN[line.plugin]
        options = {name.lower().encode("ascii") for name in files + variables}
        if not switches(line.plugin, settings) and options.isdisjoint(line.options):
            wanted = " or ".join([*variables, *("control/" + file for file in files)])
            found.append((line.where, f"{line.name} does nothing here without {wanted}"))
    if settings.variable("HELOCHECK") == b"!" and settings.files.has("badhelo"):
        found.append(("control/badhelo", "is not asked where HELOCHECK is !"))
    return found


def _variables(settings: Settings, names: list[str]) -> Iterator[str]:
    """Those of these variables that are set, and not off."""
    for name in names:
        for full in settings.variables_like(name[:-1]) if name.endswith("*") else [name]:
            value = settings.variable(full)
            off = value == OFF and name in SPAMCONTROLS.split()
            if value is not None and not off and not (name in _NUMBERS and _is_zero(value)):
                yield full


def _is_on(settings: Settings, file: str) -> bool:
    """Is there such a control file, and is it not a number that is 0?"""
    if not _is_there(settings, "control/" + file):
        return False
    try:
        content = settings.files.read(file) or b""
    except ControlError:
        return True
    return file not in _NUMBERS or not _is_zero(content)


def _is_zero(text: bytes) -> bool:
    """A number of 0, as qmail reads it: no digits are none."""
    return text.strip(b" \t\r\n").strip(b"0") == b""


def _is_there(settings: Settings, switch: str) -> bool:
    file = switch.removeprefix("control/")
    if file == switch:
        return settings.variable(switch) is not None
    return settings.files.has(file)
