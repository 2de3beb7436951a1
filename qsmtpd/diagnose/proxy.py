"""For `qsmtpd --check`: who may say whose connection it passes on, and by whose rules."""

from __future__ import annotations

from ..config.session import proxy_settings
from ..net.tcprules import RIGHTS
from ..tls.settings import AUTO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from .report import Report

#: These do nothing where there is nobody to send a header.
_IDLE = (("proxytimeout", "PROXYTIMEOUT"), ("proxytls", "PROXYTLS"), (None, "PROXYRULES"))


def check_proxy(report: Report, settings: Settings, of_balancer: bool) -> None:
    """Say what is odd about the settings of the PROXY protocol.  Raises ControlError.

    `of_balancer`: is the environment that of connections from who sends the header?
    """
    hosts = proxy_settings(settings)
    where = "PROXYHOSTS" if settings.is_set("PROXYHOSTS") else "control/proxyhosts"
    if hosts is None or not hosts.count:
        if hosts is not None and where != "PROXYHOSTS":
            report.warn(where, "has no entry: nobody sends a PROXY header")
        for file, variable in _IDLE:
            if settings.is_set(variable) or (file is not None and settings.files.has(file)):
                report.warn(variable, "has no effect: proxyhosts names nobody")
        return
    if hosts.everybody:
        report.warn(where, "names everybody, so every client says who it is, and gets its rights")
    for name in RIGHTS if of_balancer else ():
        right = name.decode("ascii")
        if settings.is_set(right):
            report.warn(right, f"is not for clients behind {where}: their rules have to say so")
    if hosts.tls and settings.choice(None, "QSMTPD_TLS", (AUTO, "external")) != AUTO:
        report.warn("QSMTPD_TLS", "says that all have TLS; with proxytls leave it to the headers")
    if hosts.rules is not None:
        cdb = settings.cdb_at("PROXYRULES", hosts.rules)
        names = [key for key, _ in cdb.items() if key.startswith(b"=") or b"@" in key]
        if names:
            what = f"has {len(names)} rules by name, which are not looked for here"
            report.warn("PROXYRULES", what)
