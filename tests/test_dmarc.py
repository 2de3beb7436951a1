"""DMARC's own parts: who the author is, what a record says, and what follows (RFC 9989)."""

from __future__ import annotations

from time import process_time

import pytest
from dmarc_cases import SERVFAIL, Case, Zone, at, cases
from hypothesis import example, given
from hypothesis import strategies as st

from qsmtpd.filters.dmarcevaluation import DKIM, SPF, Identifier, evaluate_domain, walked
from qsmtpd.net.dns.message import Answer
from qsmtpd.smtp import author, dmarcrecord
from qsmtpd.smtp.author import author_domain

# -- the author -----------------------------------------------------------------

FROM = {
    b"a@b.example": b"b.example",
    b"<a@b.example>": b"b.example",
    b"A <a@B.Example>": b"B.Example",
    b'"A, B" <a@b.example>': b"b.example",
    b'"<c@d.example>" <a@b.example>': b"b.example",
    b'"\\"<c@d.example>," <a@b.example>': b"b.example",
    b"(c@d.example) a@b.example (c@d.example, (nested) \\) <c@d.example>)": b"b.example",
    b"a(c)@(c)b(c).(c)example(c)": b"b.example",
    b"\n A\n <a@b.example>\n": b"b.example",
    b"a @ b . example": b"b.example",
    b"a@b.example.": b"b.example.",
    b'"a@d.example"@b.example': b"b.example",
    b'a."b".c@b.example': b"b.example",
    # Some hosts have such users.
    b"a..b.@b.example": b"b.example",
    b"<@c.example,@d.example:a@b.example>": b"b.example",
    b"<,@c.example:a@b.example>": b"b.example",
    b"a@[192.0.2.1]": b"[192.0.2.1]",
    b"a@[c@d.example]": b"[c@d.example]",
    # Encoded words are no addresses, whatever they show.
    b"=?utf-8?q?c=40d.example?= <a@b.example>": b"b.example",
    b"=?utf-8?q?=3Cc=40d.example=3E=2C?= <a@b.example>": b"b.example",
    b"=?utf-8?b?PGNAZC5leGFtcGxlPgA=?= <a@b.example>": b"b.example",
    "Jürgen <a@b.example>".encode(): b"b.example",
    b"J\xfcrgen <a@b.example>": b"b.example",
    "a@bücher.example".encode(): "bücher.example".encode(),
    b"\xff@b.example": b"b.example",
    # What should be quoted, and often is not.
    b"Doe, J. <a@b.example>": b"b.example",
    b"c@d.example <a@b.example>": b"b.example",
    b"a@b.example, Doe": b"b.example",
    b"[c] <a@b.example>": b"b.example",
    b"A [c@d.example] <a@b.example>": b"b.example",
    # Several of one domain, and groups (RFC 6854).
    b"a@b.example, C <c@B.EXAMPLE.>": b"b.example",
    b"G: a@b.example;": b"b.example",
    b"G: a@b.example, c@b.example; , H:;": b"b.example",
    b",,a@b.example,": b"b.example",
    # Not exactly one.
    b"a@b.example, c@d.example": author.SEVERAL_DOMAINS,
    b"<a@b.example>, <c@d.example>": author.SEVERAL_DOMAINS,
    b"G: a@b.example; , H: c@d.example;": author.SEVERAL_DOMAINS,
    b"a@b.example, c@x.b.example": author.SEVERAL_DOMAINS,
    b"": author.NO_ADDRESS,
    b" \n ": author.NO_ADDRESS,
    b"Undisclosed senders:;": author.NO_ADDRESS,
    b"nobody": author.NO_ADDRESS,
    b"(a@b.example)": author.NO_ADDRESS,
    b'"a@b.example"': author.NO_ADDRESS,
    b"<a@b.example>c@d.example": author.UNREADABLE,
    b"<a@b.example> <c@d.example>": author.UNREADABLE,
    b"<a@b.example> c@d.example": author.UNREADABLE,
    b"<a@b.example>>": author.UNREADABLE,
    b"<<a@b.example>": author.UNREADABLE,
    b"A <a@b.example": author.UNREADABLE,
    b"A a@b.example>": author.UNREADABLE,
    b"A a@b.example": author.UNREADABLE,
    b"a@b.example c": author.UNREADABLE,
    b"a@b@d.example": author.UNREADABLE,
    b"a@b..example": author.UNREADABLE,
    b"a@.example": author.UNREADABLE,
    b"a@": author.UNREADABLE,
    b"@b.example": author.UNREADABLE,
    b"<>": author.UNREADABLE,
    b"A <>": author.UNREADABLE,
    b'a@"b.example"': author.UNREADABLE,
    b"a@b.example\0": author.UNREADABLE,
    b"a@b.example\0, c@d.example": author.UNREADABLE,
    b"a\r@b.example": author.UNREADABLE,
    b"a\x7f@b.example": author.UNREADABLE,
    b'"a@b.example': author.UNREADABLE,
    b"(a@b.example": author.UNREADABLE,
    b"a@b.example)": author.UNREADABLE,
    b"a@[192.0.2.1": author.UNREADABLE,
    b"a@192.0.2.1]": author.UNREADABLE,
    b"a@[192.0.2.1].example": author.UNREADABLE,
    b"a\\@b.example": author.UNREADABLE,
    b"a@b.example;": author.UNREADABLE,
    b"G: a@b.example": author.UNREADABLE,
    b"G: H: a@b.example;;": author.UNREADABLE,
    b": a@b.example;": author.UNREADABLE,
    b"<@c.example a@b.example>": author.UNREADABLE,
    b"<@c.example,d.example:a@b.example>": author.UNREADABLE,
    b"c@d.example: a@b.example;": author.UNREADABLE,
    b"<c@d.example>: a@b.example;": author.UNREADABLE,
    b"[c]: a@b.example;": author.UNREADABLE,
    b"<a@b.example>," * 1000: author.TOO_LONG,
}


@pytest.mark.parametrize(("value", "said"), FROM.items(), ids=[repr(v)[2:42] for v in FROM])
def test_from(value: bytes, said: bytes) -> None:
    domain, problem = author_domain([value])
    assert said in (domain, problem)
    assert not (domain and problem)


def test_from_of_no_line_and_of_several() -> None:
    assert author_domain([]) == (b"", author.NO_FIELD)
    assert author_domain([b"a@b.example"] * 2) == (b"", author.SEVERAL_FIELDS)


_atom = st.text("abc!#-_=?'", min_size=1, max_size=5).map(str.encode)
_domain = st.lists(st.text("abc-", min_size=1, max_size=4), min_size=1, max_size=4).map(
    lambda labels: ".".join(labels).encode()
)
_comment = st.recursive(
    st.text('abc@<>",:; \\\\', max_size=6).map(lambda t: t.replace("\\", "\\\\").encode()),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: b"(" + b"".join(parts) + b")"),
    max_leaves=5,
).map(lambda text: b"(" + text + b")")
_blank = st.one_of(st.just(b""), st.just(b" "), st.just(b"\n "), _comment)
_quoted = st.text('ab@<>,:;()."\\ ', max_size=8).map(
    lambda t: b'"' + t.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'
)


@st.composite
def _mailbox(draw: st.DrawFn, domain: bytes) -> bytes:
    """An address of this domain, in one of its forms."""
    local = draw(st.one_of(_atom, _quoted))
    before, after = draw(_blank), draw(_blank)
    address = draw(_blank).join((local, b"@", domain))
    if draw(st.booleans()):
        name = draw(st.one_of(st.just(b""), _atom, _quoted))
        return before + name + b" " + draw(_blank) + b"<" + address + b">" + after
    return before + address + after


@given(st.data())
def test_addresses_of_every_form_are_found(data: st.DataObject) -> None:
    names = data.draw(st.lists(_domain, min_size=1, max_size=4))
    boxes = [data.draw(_mailbox(name)) for name in names]
    assert author.domains(b",".join(boxes)) == names
    assert author.domains(b"G:" + b",".join(boxes) + b"; ,") == names


@given(st.binary(max_size=200).map(lambda text: text.replace(b"\n", b"")))
@example(b"a@b(\\")
def test_from_of_any_bytes(value: bytes) -> None:
    domain, problem = author_domain([value])
    assert bool(domain) != bool(problem)
    assert domain in value or b"(" in value or b" " in value or b"\t" in value
    assert b"\0" not in domain


@given(st.text('a@b.<>,:;()[]"\\ ', max_size=60).map(str.encode))
def test_from_of_what_means_something(value: bytes) -> None:
    domain, problem = author_domain([value])
    assert bool(domain) != bool(problem)
    if domain and not domain.startswith(b"["):
        assert not set(domain) & set(b'@<>,:;()[]"\\ ')


@pytest.mark.parametrize("part", [*(bytes((c,)) for c in b'a@.<>,:;()[]"\\ '), b"a@b.c,", b"()"])
def test_a_long_from_takes_no_longer(part: bytes) -> None:
    before = process_time()
    author_domain([(part * author.LENGTH_LIMIT)[: author.LENGTH_LIMIT]])
    assert process_time() - before < 1


# -- records --------------------------------------------------------------------


def shown(text: bytes) -> str:
    """What a record says, in a line: p, sp, np, and what else is not usual; `-` of none."""
    if not dmarcrecord.is_record(text):
        return "-"
    found = dmarcrecord.read(text)
    if found.problem:
        return found.problem.decode()
    words = [found.p, found.sp, found.np]
    words += [f"psd={found.psd}"] if found.psd != "u" else []
    flags = ("has_np", "testing", "strict_dkim", "strict_spf")
    return " ".join([*words, *(flag for flag in flags if getattr(found, flag))])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"v=DMARC1;p=reject", "reject reject reject"),
        (b"v=DMARC1; p=reject; sp=none", "reject none none"),
        (b"v=DMARC1; p=none; np=reject", "none none reject has_np"),
        (b"v=DMARC1; p=none; sp=quarantine; np=reject", "none quarantine reject has_np"),
        (b"V = DMARC1 ;\tP = Reject ;T=Y;PSD=N;", "reject reject reject psd=n testing"),
        (b"v=DMARC1;p=none;adkim=s;aspf=S", "none none none strict_dkim strict_spf"),
        (b"v=DMARC1;p=none;adkim=x;aspf=;t=1;psd=yes", "none none none"),
        (b"v=DMARC1;p=reject;pct=0;ri=x;rf;unknown=\xff\0", "reject reject reject"),
        (b"v=DMARC1;p=r\xe9ject", "the record has no valid p"),
        (b"v=DMARC1", "the record has no valid p"),
        (b"v=DMARC1;p=none;p=none", "the record has no valid p"),
        (b"v=DMARC1;p=none;sp=x", "the record has no valid sp"),
        (b"v=DMARC1;p=none;np=", "the record has no valid np"),
        (b"v=DMARC1;p=reject;np=x;rua=mailto:a@b", "none none none"),
        (b"v=DMARC1;rua=mailto:", "none none none"),
        (b"v=DMARC1;rua=x, mailto:a@b!5k", "none none none"),
        (b"v=DMARC1;rua=mailto:a!b", "the record has no valid p"),
        (b"v=DMARC1;rua=mailto:a%4g", "the record has no valid p"),
        (b"v=DMARC1;rua=mailto:a%4", "the record has no valid p"),
        (b"v=DMARC1;rua=mailto:a b", "the record has no valid p"),
        (b"v=DMARC1;rua=1x:y", "the record has no valid p"),
        (b"v=DMARC1;rua=m\xc4ilto:ab", "the record has no valid p"),
        (b"v=DMARC1;rua=mailto:\xc3\xa4", "the record has no valid p"),
        (b" v=DMARC1;p=none", "-"),
        (b"v=dmarc1;p=none", "-"),
        (b"v=DMARC10;p=none", "-"),
        (b"v=DMARC1 p=none", "-"),
        (b"p=none;v=DMARC1", "-"),
        (b"", "-"),
        (b";v=DMARC1", "-"),
        (b"v=DMARC1;p=reject;x=" + b"y" * 4096, "the record is longer than 4096 bytes"),
        (b"v=DMARC1;p=reject" + b";" * 4079, "reject reject reject"),
    ],
)
def test_record(text: bytes, said: str) -> None:
    assert shown(text) == said


@given(st.binary(max_size=300))
def test_records_of_any_bytes(text: bytes) -> None:
    found = dmarcrecord.read(b"v=DMARC1;" + text)
    assert {found.p, found.sp, found.np} <= set(dmarcrecord.POLICIES)
    if found.problem:
        assert not found.may_reject
    dmarcrecord.is_record(text)


# -- what follows ---------------------------------------------------------------

Questions = list[tuple[bytes, str]]
EXAMPLE = at(mail_example_com="v=DMARC1;p=none", example_com="v=DMARC1;p=reject")
PSD = at(com="v=DMARC1;p=reject;sp=quarantine;psd=y")


def test_the_names_of_a_walk() -> None:
    """Those of the examples in RFC 9989, 4.10 and 5.1.8."""
    assert walked(b"a.b.c.d.e.f.g.h.i.j.mail.example.com") == [
        b"a.b.c.d.e.f.g.h.i.j.mail.example.com",
        b"g.h.i.j.mail.example.com",
        b"h.i.j.mail.example.com",
        b"i.j.mail.example.com",
        b"j.mail.example.com",
        b"mail.example.com",
        b"example.com",
        b"com",
    ]
    assert walked(b"mail.a.b.c.d.e.f.g.example.com")[1:3] == [
        b"c.d.e.f.g.example.com",
        b"d.e.f.g.example.com",
    ]
    assert walked(b"com") == [b"com"]
    for labels in range(1, 128):
        names = walked(b".".join([b"a"] * labels))
        assert len(names) == min(labels, 8)
        assert names[-1] == b"a"


@pytest.mark.parametrize(
    ("zone", "author", "other", "said"),
    [
        # RFC 9989, 4.10.2: the three examples, and the first of the cases without a walk.
        (EXAMPLE, "a.mail.example.com", "example.com", "pass reject example.com"),
        (EXAMPLE, "a.mail.example.com", "b.example.com", "pass reject example.com"),
        (
            at(mail_example_com="v=DMARC1;p=none;psd=n", example_com="v=DMARC1;p=reject"),
            *("a.mail.example.com", "example.com", "fail none mail.example.com"),
        ),
        (PSD, "a.mail.example.com", "example.com", "pass quarantine com"),
        (PSD, "a.mail.example.com", "example2.com", "fail quarantine com"),
        (PSD, "com", "com", "pass reject com"),
        (PSD, "com", "example.com", "fail reject com"),
        (EXAMPLE, "mail.example.com", "mail.example.com", "pass none mail.example.com"),
        (EXAMPLE, "example.net", "example.net", "none"),
        # 11.8: the author's domain has no record, and one above the organization has.
        (EXAMPLE, "evil.example.com", "mail.example.com", "pass reject example.com"),
        (at(example_com="v=DMARC1;p=reject;np=none"), "a.example.com", "", "fail none example.com"),
        (
            {**at(example_com="v=DMARC1;p=reject;np=none"), "x.a.example.com": []},
            *("a.example.com", "", "fail reject example.com"),
        ),
        (at(example_com="v=DMARC1;p=reject;t=y"), "example.com", "", "fail quarantine example.com"),
        (at(example_com="v=DMARC1"), "example.com", "example.com", "permerror example.com"),
        (at(example_com=["v=DMARC1;p=none"] * 2), "example.com", "example.com", "none"),
        (
            at(a_example_com=["v=DMARC1;p=none"] * 2, example_com="v=DMARC1;p=reject"),
            *("a.example.com", "", "fail reject example.com"),
        ),
        # Of what stands above an organization, or could, nothing matters.
        (
            {"_dmarc.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject;psd=n")},
            *("a.example.com", "b.example.com", "pass reject example.com"),
        ),
        (
            {"_dmarc.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject")},
            *("example.com", "example.com", "pass reject example.com"),
        ),
        (
            {"_dmarc.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject")},
            *("example.com", "example.net", "fail reject example.com"),
        ),
        (
            {"_dmarc.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject")},
            *("example.com", "a.example.com", "temperror reject example.com may_reject"),
        ),
        (
            {"_dmarc.com": SERVFAIL, **at(example_com="v=DMARC1;p=none")},
            *("example.com", "a.example.com", "temperror none example.com"),
        ),
        (
            {"_dmarc.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject")},
            *("a.example.com", "", "temperror may_reject"),
        ),
        # Who is vouched for by its own name passes, whichever record applies, if there is one.
        (
            {"_dmarc.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject")},
            *("a.example.com", "a.example.com", "pass"),
        ),
        (
            {"_dmarc.a.example.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject;adkim=s")},
            *("a.example.com", "a.example.com", "pass"),
        ),
        (
            {"_dmarc.a.example.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject")},
            *("a.example.com", "example.com", "temperror may_reject"),
        ),
        (
            {"_dmarc.a.example.com": SERVFAIL, **at(example_com="v=DMARC1")},
            *("a.example.com", "a.example.com", "temperror"),
        ),
        ({"_dmarc.com": SERVFAIL}, "a.example.com", "a.example.com", "temperror"),
        (
            {"_dmarc.com": SERVFAIL, **at(example_com="v=DMARC1;p=reject;t=y")},
            *("a.example.com", "", "temperror"),
        ),
        ({"_dmarc.example.com": SERVFAIL}, "example.com", "example.com", "temperror"),
        # Nothing above a public suffix counts.
        (
            at(example_com="v=DMARC1;p=none;psd=y", com="v=DMARC1;p=reject"),
            *("a.b.example.com", "c.example.com", "fail none example.com"),
        ),
        # It could be that com is their organization, or y.example.com the author's.
        (
            {"_dmarc.com": SERVFAIL, **at(a_example_com="v=DMARC1;p=none")},
            *("a.example.com", "b.example.com", "temperror none a.example.com"),
        ),
        (
            {
                "_dmarc.y.example.com": SERVFAIL,
                **at(x_y_example_com="v=DMARC1;p=none", example_com="v=DMARC1;p=none"),
            },
            *("x.y.example.com", "example.com", "temperror none x.y.example.com"),
        ),
        # Whether the author's domain exists is not known, and reject is of neither case.
        (
            {
                "a.example.com": SERVFAIL,
                **at(example_com="v=DMARC1;p=reject;sp=none;np=quarantine"),
            },
            *("a.example.com", "", "temperror example.com"),
        ),
    ],
)
def test_evaluation(zone: Zone, author: str, other: str, said: str) -> None:
    for method in ("spf", "dkim"):
        result = Case("", author, zone, **{method: [other] if other else []}).evaluate()
        words = [result.result, result.policy, result.published.decode()]
        words += ["may_reject"] if result.may_reject else []
        assert " ".join(filter(None, words)) == said
        assert bool(result.trouble) == (result.result == "temperror")


def test_spf_and_dkim_have_modes_of_their_own() -> None:
    zone = at(example_com="v=DMARC1;p=reject;aspf=s")
    other = ["a.example.com"]
    assert Case("", "example.com", zone, spf=other).evaluate().result == "fail"
    assert Case("", "example.com", zone, dkim=other).evaluate().result == "pass"


@pytest.mark.parametrize(
    ("domain", "policy", "said"),
    [
        ("example.com", "reject", "temperror may_reject"),
        ("a.example.com", "reject", "temperror may_reject"),
        ("example.com", "none", "temperror"),
        ("example.net", "reject", "fail"),  # it could not have helped
    ],
)
def test_who_cannot_be_checked(domain: str, policy: str, said: str) -> None:
    case = Case("", "example.com", at(example_com="v=DMARC1;p=" + policy))
    unsure = Identifier(SPF, domain.encode(), sure=False)
    result = evaluate_domain(case.ask, b"example.com", [unsure, Identifier(DKIM, b"example.net")])
    assert result.result + (" may_reject" if result.may_reject else "") == said
    assert result.reason == (b"spf could not be checked" if said != "fail" else b"")
    sure = Identifier(DKIM, b"example.com")
    assert evaluate_domain(case.ask, b"example.com", [unsure, sure]).result == "pass"


def test_all_cases_are_bounded_and_make_sense() -> None:
    """What holds for each case, whoever evaluates it; test_dmarc_peers.py has what each says."""
    made = cases()
    for case in made:
        asked: Questions = []

        def ask(
            *questions: tuple[bytes, str], case: Case = case, asked: Questions = asked
        ) -> list[Answer]:
            asked += questions
            return case.ask(*questions)

        identifiers = [Identifier(DKIM, name.encode()) for name in case.dkim]
        identifiers += [Identifier(SPF, name.encode()) for name in case.spf]
        result = evaluate_domain(ask, case.author.encode(), identifiers)
        assert len(asked) <= 8 * (1 + len(identifiers)) + 1
        assert result.result in ("pass", "fail", "none", "temperror", "permerror")
        assert not (result.result == "pass" and not identifiers)
        is_known = result.published or SERVFAIL not in case.zone.values()
        if result.result == "fail" or (result.result == "pass" and is_known):
            assert "_dmarc." + result.published.decode() in case.zone
            assert result.published in walked(case.author.encode())
        if SERVFAIL not in case.zone.values():
            assert result.result != "temperror"
            assert not result.may_reject


@given(st.data())
def test_walks_in_any_zone(data: st.DataObject) -> None:
    """Whatever is where: few questions, no exception, and an organization above both names."""
    labels = st.lists(st.sampled_from("ab"), min_size=1, max_size=12)
    names = [".".join(data.draw(labels)) for _ in range(2)]
    ways = [name for start in names for name in walked(start.encode())]
    tags = st.sampled_from(
        ["p=none", "p=reject;psd=y", "p=reject;psd=n", "p=x", "np=none;p=reject"]
    )
    zone: Zone = {}
    for name in data.draw(st.sets(st.sampled_from(ways), max_size=6)):
        found = data.draw(st.one_of(st.just(SERVFAIL), st.lists(tags, max_size=2)))
        zone["_dmarc." + name.decode()] = (
            found if isinstance(found, str) else ["v=DMARC1;" + text for text in found]
        )
    result = Case("", names[0], zone, dkim=[names[1]]).evaluate()
    if result.result == "pass":
        assert names[0] == names[1] or names[0][-1] == names[1][-1]
    if names[0] == names[1]:
        assert result.result != "fail"
