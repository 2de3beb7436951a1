"""Made-up cases of DMARC: what the DNS says, who has written a message, and who vouches for it.

They are made systematically: each policy with each other one, each layout of records on the
way from a name to the root, each kind of alignment, each depth, each kind of record that is
broken.  test_dmarc.py evaluates them, and test_dmarc_peers.py beside a library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from qsmtpd.filters.dmarcevaluation import DKIM, SPF, Identifier, evaluate_domain
from qsmtpd.filters.dmarcresult import Result
from qsmtpd.net.dns.message import Answer, domain

SERVFAIL = "SERVFAIL"
#: name -> its TXT records, or SERVFAIL; other names exist where one is below them
Zone = dict[str, list[str] | str]


@dataclass
class Case:
    """One case; `kind` says what it is about."""

    kind: str
    author: str
    zone: Zone
    spf: list[str] = field(default_factory=list)
    dkim: list[str] = field(default_factory=list)

    def ask(self, *questions: tuple[bytes, str]) -> list[Answer]:
        """What the DNS says, as the resolver of a session would."""
        return [self._answer(name, type) for name, type in questions]

    def _answer(self, name: bytes, type: str) -> Answer:
        found = self.zone.get(name.decode())
        if domain(name) is None:
            return Answer(name, type, no_name=True)
        if found == SERVFAIL:
            return Answer(name, type, trouble=SERVFAIL)
        if found is not None and type == "TXT":
            return Answer(name, type, tuple(text.encode("latin-1") for text in found))
        return Answer(name, type, no_name=found is None and not self.exists(name.decode()))

    def exists(self, name: str) -> bool:
        """Is there such a name, or one below it?"""
        return any(known == name or known.endswith("." + name) for known in self.zone)

    def evaluate(self) -> Result:
        """What we say."""
        identifiers = [Identifier(SPF, name.encode()) for name in self.spf]
        identifiers += [Identifier(DKIM, name.encode()) for name in self.dkim]
        return evaluate_domain(self.ask, self.author.encode(), identifiers)

    def as_json(self) -> dict[str, Any]:
        """For a program in another language."""
        return {
            "author": self.author,
            "zone": self.zone,
            "spf": self.spf,
            "dkim": self.dkim,
        }


def at(**records: str | list[str]) -> Zone:
    """A zone: `a_example_org="p=none"` is one DMARC record at _dmarc.a.example.org."""
    return {
        "_dmarc." + name.replace("_", "."): [text] if isinstance(text, str) else text
        for name, text in records.items()
    }


POLICIES = ("none", "quarantine", "reject")


def policies() -> Iterator[Case]:
    """Each p with each sp, np and t; for the domain, for a name below it, and for none."""
    for p, sp, np, t in product(POLICIES, ("", *POLICIES), ("", *POLICIES), ("", "y", "n")):
        tags = {"p": p, "sp": sp, "np": np, "t": t}
        text = "; ".join(["v=DMARC1", *(f"{tag}={word}" for tag, word in tags.items() if word)])
        zone = {**at(example_org=text), "www.example.org": []}
        for author in ("example.org", "www.example.org", "nobody.example.org"):
            yield Case("policy", author, zone)
            if p == "reject":
                yield Case("policy", author, zone, spf=["example.org"])


def alignments() -> Iterator[Case]:
    """Each mode with each relation of two names, by SPF and by DKIM."""
    names = ("example.org", "a.example.org", "b.example.org", "x.a.example.org", "example.com")
    others = (*names, "org", "notexample.org", "org.example", "EXAMPLE.org".lower())
    for mode, author, other in product(("", "r", "s"), names[:4], others):
        text = "v=DMARC1;p=reject" + (f";aspf={mode};adkim={mode}" if mode else "")
        zone = at(example_org=text)
        yield Case("alignment", author, zone, spf=[other])
        yield Case("alignment", author, zone, dkim=["example.net", other])
    for spf, dkim in product("rs", "rs"):
        zone = at(example_org=f"v=DMARC1;p=reject;aspf={spf};adkim={dkim}")
        yield Case("alignment", "a.example.org", zone, ["example.org"])
        yield Case("alignment", "a.example.org", zone, [], ["example.org"])
        yield Case("alignment", "a.example.org", zone, ["example.org"], ["a.example.org"])


#: What may be at a name.
U, Y, N = "v=DMARC1;p=reject;sp=quarantine", "v=DMARC1;p=reject;psd=y", "v=DMARC1;p=none;psd=n"
PLACED: tuple[list[str], ...] = ([], [U], [Y], [N], [U, N], ["v=spf1 -all", Y])


def walks() -> Iterator[Case]:
    """Each layout of records on the way from a.b.example.co to the root."""
    way = ("a.b.example.co", "b.example.co", "example.co", "co")
    for number, placed in enumerate(product(PLACED, repeat=4)):
        zone: Zone = {
            "_dmarc." + name: texts for name, texts in zip(way, placed, strict=True) if texts
        }
        for place, other in enumerate((*way[1:], "c.b.example.co", "c.example.co", "other.co")):
            if (number + place) % 6 == 0 or placed.count([]) >= 3:
                yield Case("walk", way[0], zone, dkim=[other])


def depths() -> Iterator[Case]:
    """Names of so many labels, with a record at each of the places that are looked at, or not."""
    for labels in (1, 2, 3, 6, 7, 8, 9, 10, 13, 50, 100):
        parts = [chr(ord("a") + number % 26) for number in range(labels, 0, -1)]
        author = ".".join(parts)
        for place in {*range(min(labels, 11)), labels - 1, labels // 2}:
            name = ".".join(parts[place:])
            for psd, other in product(("", ";psd=n", ";psd=y"), (name, f"x.{name}", parts[-1])):
                zone: Zone = {"_dmarc." + name: ["v=DMARC1;p=reject" + psd]}
                yield Case("depth", author, zone, dkim=[other])
    longest = ".".join(["a" * 61, "b" * 63, "c" * 63, "d" * 63])  # 253 bytes
    for name in (longest, longest[1:], longest[6:], longest[7:], longest[62:]):
        zone = {"_dmarc." + longest[62:]: ["v=DMARC1;p=reject"], "_dmarc." + name: [N]}
        yield Case("long", name, zone, dkim=[longest[62:]])


#: Texts that are records, or not.
TEXTS = (
    """
v=DMARC1
v=DMARC1;
v=DMARC1; p=reject
v=DMARC1; p=reject;
v=DMARC1;p=reject;;;
 v=DMARC1;p=reject
v=DMARC1 ; p = reject ; sp = none
v =DMARC1;p=reject
V=DMARC1;p=reject
v=dmarc1;p=reject
v=DMARC2;p=reject
v=DMARC1p=reject
v=DMARC1 p=reject
p=reject;v=DMARC1
p=reject
v=DMARC1;P=REJECT;SP=None
v=DMARC1;p=Reject
v=DMARC1;p=rejected
v=DMARC1;p=
v=DMARC1;p
v=DMARC1;p=reject none
v=DMARC1;p=discard;rua=mailto:a@example.org
v=DMARC1;p=discard;rua=a@example.org
v=DMARC1;p=discard;rua=https://r.example/?a=%41
v=DMARC1;p=discard;rua=https://r.example/?a=%4
v=DMARC1;p=discard;rua=a@example.org , mailto:a@example.org!10m
v=DMARC1;p=discard;rua=:x
v=DMARC1;p=discard;rua=1x:y
v=DMARC1;p=discard;ruf=mailto:a@example.org
v=DMARC1;rua=mailto:a@example.org
v=DMARC1;rua=mailto:a@example.org;sp=reject
v=DMARC1;sp=reject
v=DMARC1;p=reject;sp=discard
v=DMARC1;p=reject;np=discard
v=DMARC1;p=reject;sp=discard;rua=mailto:a@example.org
v=DMARC1;p=reject;np=discard;rua=mailto:a@example.org
v=DMARC1;p=reject;pct=0;rf=afrf;ri=1
v=DMARC1;p=reject;pct=none
v=DMARC1;p=reject;unknown=x;another
v=DMARC1;p=reject;=x
v=DMARC1;p=reject;adkim=strict
v=DMARC1;p=reject;adkim=S;aspf=S
v=DMARC1;p=reject;psd=x
v=DMARC1;p=reject;psd=N
v=DMARC1;p=reject;t=yes
v=DMARC1;p=reject;t=Y
v=DMARC1;p=none;p=reject
v=DMARC1;p=reject;p=none
v=DMARC1;p=reject;sp=none;sp=reject
v=DMARC1;p=reject;t=y;t=n
v=DMARC1;v=DMARC1;p=reject
v=DMARC1;p=r\xe9ject
v=DMARC1;p=reject;x=\xff\xfe
v=DMARC1;p=reject\x00
v=DMARC1\t;\tp=reject
v=DMARC1;\np=reject
""".strip("\n")
    .encode()
    .decode("unicode_escape")
    .split("\n")
)


def records() -> Iterator[Case]:
    """Each of these texts, at the domain and above it; alone, twice, and beside others."""
    for text in TEXTS:
        for author in ("example.org", "www.example.org"):
            yield Case("record", author, at(example_org=text))
            yield Case("record", author, at(example_org=text), spf=["b.example.org"])
        yield Case("record", "example.org", at(example_org=["v=spf1 -all", text, "hello"]))
        yield Case("record", "example.org", at(example_org=[text, text]))
        yield Case("record", "a.example.org", at(a_example_org=text, example_org=U))


def troubles() -> Iterator[Case]:
    """Each place of a walk at which the DNS cannot tell, with records at others."""
    way = ("a.b.example.co", "b.example.co", "example.co", "co")
    for broken, placed, record in product(way, ("", *way), (U, N, Y, U + ";np=none")):
        zone: Zone = {"_dmarc." + placed: [record]} if placed else {}
        zone["_dmarc." + broken] = SERVFAIL
        for dkim in ([], ["a.b.example.co"], ["b.example.co"], ["x.example.net"]):
            yield Case("trouble", way[0], zone, dkim=dkim)
    for text in ("p=none;np=reject", "p=reject;np=none", "p=none;np=none", "p=reject;sp=none"):
        zone = {**at(example_org="v=DMARC1;" + text), "a.example.org": SERVFAIL}
        yield Case("trouble", "a.example.org", zone)
        yield Case("trouble", "a.example.org", zone, spf=["example.org"])


def cases() -> list[Case]:
    """All of them."""
    makers = (policies, alignments, walks, depths, records, troubles)
    return [case for maker in makers for case in maker()]
