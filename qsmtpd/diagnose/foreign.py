"""For `qsmtpd --check`: what is set as if it were a filter, and is none that runs."""

from __future__ import annotations

import os

from ..policy import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings

_DNS = "wants DNS, which no filter of qsmtpd asks yet"
_CONTENT = "looks into messages, which no filter of qsmtpd does yet"
_BAD = "is another patch's; use badmailfrom, badrcptto or badhelo"
_RCPT = "is another patch's; use recipients or RCPTCHECK"
_SENDER = "is another patch's; use LOCALMFCHECK"
_QUEUE = "is for a queue program of SPAMCONTROL's; qsmtpd does not do it"
_SPP = "wants qmail-spp's plugins: see qsmtpd-plugins(7) for those of qsmtpd"
#: Variables and control files of qmail's patches, and of qpsmtpd, that mean a
#: filter there, and nothing here: nobody should believe that they are at work.
NOT_DONE_VARIABLES = {
    **dict.fromkeys(("MFDNSCHECK", "DNSBLLIST", "DNSBLSKIP", "SURBL", "SPFINFO"), _DNS),
    **dict.fromkeys(("SPF", "SPFBEHAVIOR", "REPLY_SENDEREXIST"), _DNS),
    **dict.fromkeys(("BADMIMETYPE", "BADLOADERTYPE", "BASE64", "BODYCHECK"), _CONTENT),
    **dict.fromkeys(("QHPSI", "DELIVERTO"), _QUEUE),
    **dict.fromkeys(("VALIDRCPTTO", "CHECKRECIPIENT", "CHKUSER_START"), _RCPT),
    **dict.fromkeys(("FORCEAUTHMAILFROM", "MASQUERADE"), _SENDER),
    **dict.fromkeys(("BRTLIMIT", "MAX_RCPT_ERRCOUNT"), "is another patch's; use TARPITCOUNT"),
    **dict.fromkeys(("POSTGREY", "GREYIP"), "wants greylisting, which qsmtpd does not do yet"),
    "REJECTNULLSENDERS": "is another patch's, and against RFC 5321; see BOUNCECHECK",
    "BADHELOCHECK": _BAD,
    "ENABLE_SPP": _SPP,
}
NOT_DONE_FILES = {
    **dict.fromkeys(("badmimetypes", "badloadertypes", "bodycheck", "signatures"), _CONTENT),
    **dict.fromkeys(("badmimetypes.cdb", "badloadertypes.cdb"), _CONTENT),
    **dict.fromkeys(("dnsbllist", "dnsbl_zones", "rhsbl_zones", "spfbehavior", "spfrules"), _DNS),
    **dict.fromkeys(("validrcptto", "goodrcptto", "morevalidrcptto.cdb"), _RCPT),
    **dict.fromkeys(
        ("badmailto", "badmailfromnorelay", "badrcpttonorelay", "badhelonorelay"), _BAD
    ),
    **dict.fromkeys(("badmailpatterns", "badrcptpatterns", "badmailfromto"), _BAD),
    **dict.fromkeys(("relayclients", "norelayclients"), "is not read: RELAYCLIENT is set by rules"),
    "morebadrcptto.cdb": _BAD,
    "policy": "is another patch's; use LOCALMFCHECK, or a plugin",
    "rejectnullsenders": NOT_DONE_VARIABLES["REJECTNULLSENDERS"],
    "rejectrelaytest": "is another patch's; use badrcptto",
    "smtpplugins": _SPP,
    "maxrcpt": "is another patch's; use maxrecipients",
    "brtlimit": NOT_DONE_VARIABLES["BRTLIMIT"],
}
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
    "RCPTCHECKRELAYCLIENT": "rcptcheck",
    "RCPTCHECKTIMEOUT": "rcptcheck",
}


def plugins(settings: Settings) -> list[str]:
    """The names of the plugins that a session would have, in spec.  Raises ControlError."""
    return [line.name for line in spec.plugin_specs(settings)]


def idle_switches(settings: Settings) -> list[tuple[str, str]]:
    """What is set and does nothing: (the file or variable, why).  Raises ControlError."""
    running = {line.plugin for line in spec.plugin_specs(settings)}
    found = [
        (switch, f"is set, but its filter {name} has been taken out by {spec.VARIABLE}")
        for name in spec.BUILT_IN
        if name not in running
        for switch in spec.switches(name, settings)
    ]
    found += [
        (name, "has been taken out, so that no mail is taken, or none that it lets in")
        for name in spec.ALWAYS
        if name not in running
    ]
    for variable, why in NOT_DONE_VARIABLES.items():
        if settings.variable(variable) not in (None, b"-"):
            found.append((variable, why))
    for file, why in NOT_DONE_FILES.items():
        if _is_there(settings, "control/" + file):
            found.append(("control/" + file, why))
    for switch, name in COMPANIONS.items():
        if name not in running and _is_there(settings, switch):
            found.append((switch, f"does nothing without its filter {name}, which is not on"))
    return found


def _is_there(settings: Settings, switch: str) -> bool:
    file = switch.removeprefix("control/")
    if file == switch:
        return settings.variable(switch) is not None
    return os.path.lexists(settings.files.path(file))
