"""DMARC beside mailauth, a library in JavaScript that follows RFC 9989."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tools
from dmarc_cases import Case, cases
from harness import needs

from qsmtpd.filters.dmarcresult import Result

PROGRAM = Path(__file__).parent / "programs" / "mailauth.js"

#: What each says: a result, and of pass and fail the policy.
Said = tuple[str, str | None]


def texts(case: Case) -> list[str]:
    """All texts of a zone."""
    return [text for found in case.zone.values() if isinstance(found, list) for text in found]


def tags(text: str) -> list[str]:
    """The names of the tags of a record, as they are."""
    return [part.partition("=")[0].strip() for part in text.split(";") if "=" in part]


def is_another_word(case: Case, ours: Said, theirs: Said) -> bool:
    """A record without a valid policy, and nobody to tell.

    RFC 9989, 4.10.1: DMARC is not applied.  Of results, 9.1 has `none` where there is no record,
    and `permerror` for "the retrieval of an improperly formatted DMARC Policy Record": that is
    what we say.
    """
    return ours[0] == "permerror" and theirs[0] == "none"


def begins_with_a_blank(case: Case, ours: Said, theirs: Said) -> bool:
    """A blank in front of `v=`: the grammar (4.8) has none there, mailauth removes it."""
    return any(text.startswith(" ") for text in texts(case)) and ours != theirs


def has_a_tag_twice(case: Case, ours: Said, theirs: Said) -> bool:
    """A tag that is there twice: no tag list may have that (RFC 6376, 3.2).

    With us it makes no sense, as if it had a value that is none; with mailauth the last one
    counts.
    """
    return any(len(set(tags(text))) < len(tags(text)) for text in texts(case))


def is_not_known(case: Case, ours: Said, theirs: Said) -> bool:
    """Which policy it is cannot be told, and is not needed: we say none, mailauth the weaker."""
    return ours == ("pass", "") and theirs[0] == "pass"


def is_vouched_for_by_its_name(case: Case, ours: Said, theirs: Said) -> bool:
    """One of the records cannot be had, another can: whichever applies, the same name passes.

    mailauth says temperror before it compares names.
    """
    return ours == ("pass", "") and theirs[0] == "temperror" and case.author in case.spf + case.dkim


EXPLAINED: tuple[Callable[[Case, Said, Said], bool], ...] = (
    is_another_word,
    begins_with_a_blank,
    has_a_tag_twice,
    is_not_known,
    is_vouched_for_by_its_name,
)


def said(result: Result) -> Said:
    return result.result, result.policy if result.result in ("pass", "fail") else None


@pytest.mark.interop
def test_beside_mailauth() -> None:
    made = cases()
    assert len(made) >= 200
    modules = needs(str(tools.UNPACKED / "node_modules" / "mailauth" / "package.json"))
    done = subprocess.run(
        [needs("node"), PROGRAM, modules.replace("/mailauth/", "/")],
        input=json.dumps([case.as_json() for case in made]),
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = [
        (one["result"], one.get("policy") if one["result"] in ("pass", "fail") else None)
        for one in json.loads(done.stdout)
    ]
    used = set()
    for case, ours, other in zip(made, map(said, map(Case.evaluate, made)), theirs, strict=True):
        if ours == other:
            continue
        reasons = [one for one in EXPLAINED if one(case, ours, other)]
        assert reasons, (case, ours, other)
        used.add(reasons[0])
    assert used == set(EXPLAINED)  # else there is an explanation of nothing
