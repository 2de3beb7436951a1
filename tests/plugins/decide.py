"""Decides as its line says: `decide at=STAGE say=VERDICT text=… header=… above=…`.

`remove=` are the names of header fields, separated by commas; `holding=`, what a value has
in it for that.  Other options are code=, status=, to=, spool=yes and removes=yes.

Values are written as in a URL: %20 is a space.  `of=` decides only about one
recipient, name or sender.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from qsmtpd.decision import DECLINED, Decision


def Plugin(settings):  # noqa: ANN001, ANN201, N802
    def option(name: str) -> bytes:
        return unquote_to_bytes(settings.option(name) or b"")

    stages = option("at").decode().split(",")
    verdict = option("say").decode() or "decline"
    text, status, of = option("text"), option("status"), option("of")
    code = int(option("code") or b"0")
    header, above = ([line for line in option(o).split(b"|") if line] for o in ("header", "above"))
    recipient = option("to") or None
    holding = option("holding")
    test = (lambda value: holding in value) if holding else None
    remove = {name: test for name in option("remove").split(b",") if name}
    spooling = option("spool") == b"yes"

    def hook(self, client, *facts):  # noqa: ANN001, ANN002, ANN202
        about = [fact for fact in facts if isinstance(fact, bytes)]
        about += [fact.sender for fact in facts if hasattr(fact, "sender")]
        if of and of not in about:
            return DECLINED
        settings.log(asked=",".join(stages))
        return Decision(verdict, text, code, status, header, recipient, above, remove=remove)

    says = {"spool": spooling, "removes": option("removes") == b"yes"}
    return type("Deciding", (), {**says, **dict.fromkeys(stages, hook)})()
