"""SMTPUTF8: what is UTF-8, the two forms of a domain, and clients that use it."""

from __future__ import annotations

import re
import smtplib
import sys
import unicodedata
from email.message import EmailMessage
from email.policy import SMTPUTF8
from pathlib import Path

import pytest
from client import PATIENCE
from filters import build, client
from harness import PROGRAMS, Home
from hypothesis import given
from hypothesis import strategies as st
from listeners import Server, tcpserver

from qsmtpd.facts import Auth, Client, ControlError, Envelope, Peer, Tls
from qsmtpd.smtp import utf8
from qsmtpd.smtp.asciiheader import AsciiHeader
from qsmtpd.smtp.header import split_header
from qsmtpd.smtp.received import protocol
from qsmtpd.testing import converse

#: RFC 3629, 4, as an expression on bytes: another way than a decoder's.
UTF8 = re.compile(
    rb"(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*"
)
GOOD = [
    b"",
    b"plain",
    "é".encode(),
    "e\u0301".encode(),  # not in form C: a local part is its owner's
    "अपार".encode(),
    "👩\u200d🚒".encode(),  # with a joiner
    b"\xef\xbf\xbd",  # U+FFFD
    b"\xee\x80\x80",  # the first one behind the surrogates
    b"\xf4\x8f\xbf\xbf",  # U+10FFFF
    b"with blank",
    "\u00a0\u200e".encode(),
]
BAD = [
    b"\x80",  # no lead byte
    b"\xc3",  # nothing behind it
    b"\xc3(",  # something else behind it
    b"\xe2\x82",  # one of three is missing
    b"\xc0\x80",  # overlong NUL
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80",  # surrogates
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",  # beyond U+10FFFF
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"j\xfcrgen",  # Latin-1
    *(bytes((byte,)) for byte in (*range(32), 127)),
    *(chr(code).encode() for code in range(0x80, 0xA0)),
    "\u2028".encode(),
    "\u2029".encode(),
    *(chr(code).encode() for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
]


def is_good(text: bytes) -> bool:
    try:
        utf8.check(text)
    except ValueError:
        return False
    return True


def test_good_and_bad_utf8() -> None:
    assert [text for text in GOOD if not is_good(text)] == []
    assert [text for text in BAD if is_good(text)] == []
    # wherever it stands, and whatever is around it
    assert not any(is_good("ü".encode() + text + b"x") for text in BAD)


@given(
    st.binary(max_size=12) | st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace"))
)
def test_what_is_utf8_has_its_form_and_no_control(text: bytes) -> None:
    assert not is_good(text) or UTF8.fullmatch(text)
    if UTF8.fullmatch(text) and not is_good(text):
        kinds = {unicodedata.category(char) for char in text.decode()}
        assert kinds & {"Cc", "Zl", "Zp", "Cf"}


@given(st.binary(max_size=40))
def test_no_address_is_too_much(address: bytes) -> None:
    """Whatever a client says: an answer or a ValueError, and what is good has its spellings."""
    try:
        utf8.check_address(address)
    except ValueError:
        pass
    found = utf8.spellings(address)
    assert found[0] == address.lower()
    assert len(found) <= 6 and len(set(found)) == len(found)


#: (with U-labels, with A-labels)
DOMAINS = [
    ("bücher.example", "xn--bcher-kva.example"),
    ("straße.example", "xn--strae-oqa.example"),  # not strasse: IDNA2008
    ("пример.рф", "xn--e1afmkfd.xn--p1ai"),
    ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ("מבחן.example", "xn--5dbmtg.example"),
    ("sub_1.bücher.example", "sub_1.xn--bcher-kva.example"),
    ("a" * 50 + ".ü.example", "a" * 50 + ".xn--tda.example"),
]


@pytest.mark.parametrize(("unicode", "ascii"), DOMAINS)
def test_both_forms_of_a_domain(unicode: str, ascii: str) -> None:
    for written in (
        unicode,
        ascii,
        ascii.upper(),
        unicodedata.normalize("NFD", unicode),
        unicode.replace("ü", "Ü"),
        unicode.replace("п", "П"),
    ):
        found = utf8.forms(written.encode())
        assert found[0] == written.encode().lower()
        assert {unicode.encode(), ascii.encode()} <= set(found), written
        utf8.check_address(b"x@" + written.encode())


@pytest.mark.parametrize(
    "domain",
    [
        "ü." * 127 + "example",
        "☃.example",
        "a\u200db.example",
        "ok。example",
        "ü" * 64,
        "ü.\u0301x",
        "-ü.example",
        "[ü]",
        "ü..example",
        "ü.",
        ".ü",
        "ü.example.",
        "o\u212a.example",  # the sign of the kelvin
        "ü\u212a.example",
        "a" * 64 + ".ü.example",
        ".".join(["ü"] * 32),  # 255 bytes with A-labels
        ".".join(["a" * 61] * 4) + ".рф",
    ]
    + ["ab--ü.example", "ü\u00ad.example", "אa1ü.example", "ü b.example", "xn--ü.example"],
)
def test_no_domain(domain: str) -> None:
    with pytest.raises(ValueError):
        utf8.check_address(b"x@" + domain.encode())


def test_the_longest_domain() -> None:
    for length, good in ((253, True), (254, False)):
        domain = ".".join(["xn--tda"] * 31) + "." + "a" * (length - 31 * 8)
        assert len(domain) == length
        domain = domain.replace("xn--tda", "ü")
        try:
            utf8.check_address(b"x@" + domain.encode())
        except ValueError:
            assert not good
        else:
            assert good


@pytest.mark.slow
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_no_character_stands_for_one_of_ascii(every: int) -> None:
    """Nothing that is ASCII once it is folded, in all of Unicode, but ASCII."""
    for code in (
        *range(0x80, 0x3000),
        *range(0x3000, 0xD800, every),
        *range(0xE000, 0x110000, every),
    ):
        try:
            found = utf8.folded(chr(code).encode())
        except ValueError:
            assert unicodedata.normalize("NFC", chr(code).lower()).isascii()
        else:
            assert not found.isascii()
            assert found == unicodedata.normalize("NFC", chr(code).lower())


@given(st.text())
def test_folded_is_form_c(text: str) -> None:
    try:
        found = utf8.folded(text.encode("utf-8"))
    except ValueError:
        return
    assert found == unicodedata.normalize("NFC", text.lower())


def test_a_domain_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import idna

    asked: list[str] = []
    alabel = idna.alabel

    def ask(label: str) -> bytes:
        asked.append(label)
        return alabel(label)

    monkeypatch.setattr(idna, "alabel", ask)
    for _ in range(3):
        utf8.check_address("x@einmalig.bücher.example".encode())
        with pytest.raises(ValueError):
            utf8.check_address("x@einmalig.☃.example".encode())
    assert asked == ["bücher", "☃"]


def test_an_a_label_that_is_none_is_a_name() -> None:
    for name in (b"xn--zzzzzz.example", b"xn--.example", b"xn--" + b"a" * 300, b"XN--\x80"[:4]):
        assert utf8.forms(name) == (name.lower(),)
        utf8.check_address(b"x@" + name)


@given(st.text(st.characters(categories=["Ll", "Lo", "Nd"]), min_size=1, max_size=8))
def test_the_forms_are_the_same_from_each_side(label: str) -> None:
    domain = f"{label}.example".encode()
    try:
        utf8.check_address(b"x@" + domain)
    except ValueError:
        return
    unicode, ascii = utf8.forms(domain)[-2:] if len(utf8.forms(domain)) > 1 else (domain, domain)
    assert ascii.isascii()
    assert set(utf8.forms(ascii)) >= {unicode, ascii}
    assert set(utf8.forms(unicode)) == {unicode, ascii}


def test_the_library_is_asked_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    utf8.forget()
    monkeypatch.setitem(sys.modules, "idna", None)
    utf8.check_address("ü@ok.example".encode())
    assert utf8.spellings(b"X@OK.example") == (b"x@ok.example",)
    for domain in ("bücher.example", "xn--bcher-kva.example"):
        with pytest.raises(ControlError):
            utf8.check_address(b"x@" + domain.encode())
    talk = converse([], ["MAIL FROM:<x@bücher.example> SMTPUTF8"])
    assert talk.replies[-1] == "421 unable to read controls (#4.3.0)"
    assert "Python's idna" in talk.log[0] and "unless smtputf8 is off" in talk.log[0]
    # who does not ask for it needs no library
    assert converse([], ["MAIL FROM:<x@bücher.example>"]).replies[-1] == "250 ok"


@pytest.mark.parametrize("tls", [None, Tls(b"TLSv1.3")])
@pytest.mark.parametrize("auth", [None, Auth(b"joe", b"PLAIN")])
def test_the_keyword_of_the_received_line(tls: Tls | None, auth: Auth | None) -> None:
    who = Client(Peer(), tls)
    who.auth = auth
    for who.esmtp in (True, False):
        letters = b"S" * (tls is not None) + b"A" * (auth is not None)
        assert protocol(who, utf8=True) == b"UTF8SMTP" + letters


def test_a_recipient_that_a_plugin_refuses_holds_up_nobody(home: Home) -> None:
    """The header counts for those who are in the envelope in the end."""
    relay = build("relay", home.path)
    envelope = Envelope(b"a@b.example", utf8=True)
    assert relay.rcpt(client(relay=b""), envelope, b"x@other.example").verdict == "accept"
    assert not envelope.leaves  # until it is accepted
    envelope.recipients = [b"x@other.example"]
    assert envelope.leaves
    talk = converse(
        "badrcptto",
        [
            *("MAIL FROM:<a@b.example> SMTPUTF8", "RCPT TO:<x@other.example>"),
            *("RCPT TO:<x@ok.example>", "DATA", "Subject: grüße\n"),
        ],
        environ={"RELAYCLIENT": ""},
        controls={"badrcptto": "x@other.example"},
    )
    assert talk.replies[-1].startswith("250 ok ")
    assert talk.messages[0].recipients == ["x@ok.example"]


DECIDE = f"{Path(__file__).parent}/plugins/decide.py at=rcpt"
HEADER = "Subject: grüße\n\n"


@pytest.mark.parametrize(
    ("plugins", "recipients", "message", "said"),
    [
        # one is refused behind relay, and the other one is ours
        (["relay", f"{DECIDE} say=reject of=x@far.example"], "x@far ä@ok", HEADER, "UTF8SMTP"),
        # one that needs it, and one that needs it not
        ([], "x@far ä@ok", "a: b\n", "UTF8SMTP"),
        ([], "x@far ä@ok", HEADER, "550"),
        ([], "x@far x@ok", "a: b\n", "ESMTP"),
        ([], "x@far x@ok", HEADER, "550"),
        ([], "x@ok", HEADER, "UTF8SMTP"),
        ([], "x@ok", "a: b\n", "UTF8SMTP"),
        # a plugin that says another recipient: who is in the envelope, counts
        (["relay", f"{DECIDE} of=x@far.example to=y@far.example"], "x@far", HEADER, "550"),
        (["relay", f"{DECIDE} of=x@far.example to=y@ok.example"], "x@far", HEADER, "UTF8SMTP"),
        (["relay", f"{DECIDE} of=x@ok.example to=y@far.example"], "x@ok", HEADER, "550"),
    ],
)
def test_who_is_in_the_envelope_decides(
    plugins: list[str], recipients: str, message: str, said: str
) -> None:
    commands = [f"RCPT TO:<{recipient}.example>" for recipient in recipients.split()]
    for start in ("MAIL FROM:<a@b.example> SMTPUTF8", "MAIL FROM:<> SMTPUTF8"):
        talk = converse(
            plugins,
            ["EHLO x", start, *commands, "DATA", message],
            environ={"RELAYCLIENT": ""},
        )
        if said.isdigit():
            assert talk.replies[-1].startswith(f"{said} ") and "#5.6.9" in talk.replies[-1]
        else:
            assert talk.replies[-1].startswith("250 ok ")
            assert f" with {said};" in talk.messages[0].text


def test_a_suffix_of_relay_is_no_domain() -> None:
    for box, good in (("x@ok", True), ("x@far", False)):
        talk = converse(
            [],
            ["MAIL FROM:<> SMTPUTF8", f"RCPT TO:<{box}.example>", "DATA", HEADER],
            environ={"RELAYCLIENT": "@smarthost"},
        )
        assert (talk.replies[-1][:3] == "250") == good
        assert [m.recipients for m in talk.messages] == [[f"{box}.example@smarthost"]] * good


LONG = "X-Long: y\n" * 30_000  # more than a header is held


@pytest.mark.parametrize(
    ("message", "good"),
    [
        ("grüße\n", True),  # no header at all
        ("no header\ngrüße\n", True),
        ("a: b\nno header\nSubject: grüße\n", True),
        ("From x\na: b\n c\nno header\ngrüße\n", True),
        ("\ngrüße\n", True),
        ("Subject: grüße\nno header\n", False),
        ("a: b\n grüße\n\n", False),
        ("From x\nSubject: grüße\n\n", False),
        ("From grüße\n\n", False),
        (">From x\nno header\ngrüße\n", True),
        ("a: b\n" * 12_000 + "Subject: grüße\n\n", False),  # more lines than are parsed
        (LONG + "\n" + "grüße\n", True),
        (LONG + "Subject: grüße\n\n", False),
        (LONG + "x: " + "y" * 300_000 + "ü\n\n", False),
        (LONG + "x: y\n\ngrüße\n", True),
        ("no header\n" * 40_000 + "grüße\n", True),
    ],
)
def test_what_counts_as_header(message: str, good: bool) -> None:
    for plugins in ([], ["headers singleheaders=X-None"]):  # with and without an inspection
        talk = converse(
            plugins,
            ["MAIL FROM:<a@b.example> SMTPUTF8", "RCPT TO:<x@far.example>", "DATA", message],
            environ={"RELAYCLIENT": ""},
        )
        assert (talk.replies[-1][:3] == "250") == good, talk.replies[-1]
        if not good:
            assert talk.replies[-1].endswith("(#5.6.9)") and not talk.messages


@given(st.lists(st.sampled_from([b"a: b\n", b" c\n", b"none\n", b"\n", b"\xc3\xbc\n"])))
def test_header_lines_end_where_split_header_says(lines: list[bytes]) -> None:
    """A header that is whole: what is shown to plugins as such is what has to be ASCII."""
    text = b"".join(lines).partition(b"\n\n")[0] + b"\n"
    for one in (text, b"From x\n" + text, text + b"s: \xc3\xbc\n"):
        _, length = split_header(one)
        assert AsciiHeader().header(one, True) == one[:length].isascii()


@given(st.integers(1, 40), st.integers(1, 9))
def test_a_header_that_is_cut_anywhere(cut: int, size: int) -> None:
    """Whatever is header when it is seen whole, is that in pieces."""
    for rest, good in (
        (b"a: b\nc: \xc3\xbc\n\nx\n", False),
        (b"a: b\nc: d\n\n\xc3\xbc\n", True),
    ):
        text = b"x: y\n" * 3 + rest
        watch = AsciiHeader()
        found = watch.header(text[:cut], False)
        for at in range(cut, len(text), size):
            found = watch.body(text[at : at + size]) and found
        if b"\n\n" not in text[:cut]:
            assert found == good


def test_check_tells_what_matches_nothing(home: Home) -> None:
    home.control("rcpthosts", "ok.example", "bücher.example", "BÜRO.example", b"caf\xe9.example")
    home.control("badmailfrom", unicodedata.normalize("NFD", "ü@b.example"), "o\u212a@b.example")
    out = home.run(b"", "--check").out.decode()
    assert "ok: smtputf8 = local (default)" in out
    for warning in (
        r"rcpthosts: has b\xc3\xbccher.example and not xn--bcher-kva.example",
        r"rcpthosts: has b\xc3\x9cro.example and not xn--bro-hoa.example",
        r"rcpthosts: caf\xe9.example is not in UTF-8: with SMTPUTF8 it matches nothing",
        r"badmailfrom: o\xe2\x84\xaa@b.example has a character that stands for one of ASCII",
    ):
        assert f"warning: control/{warning}" in out
    assert "warning: control/badmailfrom: u" not in out
    home.control("rcpthosts", "ok.example", "bücher.example", "xn--bcher-kva.example")
    assert "rcpthosts: has" not in home.run(b"", "--check").out.decode()
    assert "warning: control/" not in home.run(b"", "--check", SMTPUTF8="off").out.decode()


def test_explain(home: Home) -> None:
    home.control("rcpthosts", "xn--bcher-kva.example")
    out = home.run(b"", "--explain", "from=ü@b.example", "to=x@bücher.example").out
    assert rb"C: MAIL FROM:<\xc3\xbc@b.example> SMTPUTF8" in out
    assert b"accept (as x@xn--bcher-kva.example)" in out
    assert b"with UTF8SMTP;" in out
    out = home.run(b"", "--explain", "from=u@b.example", "to=x@xn--bcher-kva.example").out
    assert b"SMTPUTF8" not in out and b"handed to the queue for 1 of 1" in out


# -- clients of other people ------------------------------------------------


def message() -> EmailMessage:
    """One that needs SMTPUTF8, in envelope and header."""
    found = EmailMessage(policy=SMTPUTF8)
    found["From"] = "jürgen@bücher.example"
    found["To"] = "zoë@bücher.example"
    found["Subject"] = "grüße"
    found.set_content("hi\n")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["", "S", "A", "SA"])
def test_smtplib(inside: Home, way: str) -> None:
    inside.control("rcpthosts", "bücher.example")
    inside.arguments = [str(PROGRAMS / "checker"), "true"]
    inside.environ |= {"SMTPAUTH": "", "AUTHCLEAR": "1", "SEEN": str(inside.path / "seen")}
    with (
        tcpserver(inside, ":allow") as server,
        smtplib.SMTP("127.0.0.1", server.port, "me.example", PATIENCE) as talk,
    ):
        talk.ehlo()
        assert talk.has_extn("smtputf8")
        if "S" in way:
            talk.starttls()
        if "A" in way:
            talk.login("joe", "secret")
        assert talk.send_message(message()) == {}
        (stored,) = inside.messages()
    assert re.search(rb" with UTF8SMTP%b[; ]" % way.encode(), stored.text)
    assert stored.sender == "jürgen@bücher.example".encode()
    assert stored.recipients == ["zoë@bücher.example".encode()]
    assert "Subject: grüße".encode() in stored.text


def test_smtplib_is_told_what_is_wrong(home: Home) -> None:
    home.environ["RELAYCLIENT"] = ""
    with (
        tcpserver(home, ":allow") as server,
        smtplib.SMTP("127.0.0.1", server.port, "me.example", PATIENCE) as talk,
        pytest.raises(smtplib.SMTPRecipientsRefused) as refused,
    ):
        talk.send_message(message())
    (code, text) = refused.value.recipients["zoë@bücher.example"]
    assert code == 550 and text.endswith(b"(#5.6.7)")
    assert not home.messages()


@pytest.mark.slow
def test_a_warm_server(home: Home) -> None:
    home.control("rcpthosts", "xn--bcher-kva.example")
    with (
        Server(home) as server,
        smtplib.SMTP("127.0.0.1", server.port, "me.example", PATIENCE) as talk,
    ):
        assert talk.send_message(message()) == {}
    (stored,) = home.messages()
    assert stored.recipients == ["zoë@xn--bcher-kva.example".encode()]
