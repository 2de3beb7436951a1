"""The log in SPAMCONTROL's format, read as its users' programs read it."""

from __future__ import annotations

import base64
import os
import re
import smtplib
from pathlib import Path

import pytest
from client import PATIENCE
from harness import PROGRAMS, Home, wait_for
from hypothesis import given
from hypothesis import strategies as st
from listeners import tcpserver
from tls_home import SERVER

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.decision import ACCEPTED, Decision, reject
from qsmtpd.facts import Auth, Client, ControlError, Peer, Reply, Ruling, Tls
from qsmtpd.filters.spamcontrollog import Plugin
from qsmtpd.log import Log
from qsmtpd.smtp import replies

REFUSED = reject(b"no")
HEAD = r"qmail-smtpd: pid (\d+) ((?:Accept|Reject)::(?:SNDR|ORIG|RCPT|DATA|AUTH|TLS|SMTP)::[\w.-]+)"
ENVELOPE = re.compile(HEAD + r" P:(\w+) S:(\S+) H:(\S*) F:(\S*) T:(\S*)")
USER = re.compile(HEAD + r" P:(\w+) S:(\S+) \?= '([^' ]*)'")
CIPHER = re.compile(HEAD + r" P:(\w+) S:(\S+) != '([^' ]*)'")


def read(line: str) -> tuple[str, ...]:
    """One line -> what its form says, without the pid."""
    for form in (ENVELOPE, USER, CIPHER):
        match = form.fullmatch(line)
        if match:
            return match.groups()[1:]
    raise AssertionError(line)


def made(
    stage: str,
    plugin: str,
    decision: Decision,
    about: bytes = b"",
    reply: Reply | bytes | None = None,
    detail: bytes = b"",
) -> Ruling:
    """A ruling, and the reply that it has become."""
    ruling = Ruling(stage, plugin, decision, about, detail)
    if isinstance(reply, bytes):
        reply = replies.with_status(int(reply[:3]), reply[4:])
    ruling.answer = reply
    return ruling


def logged(client: Client, *rulings: tuple[str, Ruling], **environ: str) -> list[str]:
    """The lines that the plugin makes of these."""
    variables = {b"LOGFORMAT": b"spamcontrol"}
    variables |= {name.encode(): value.encode() for name, value in environ.items()}
    reader, writer = os.pipe()
    try:
        settings = Settings(ControlFiles(b"/nonexistent"), variables)
        plugin = Plugin(settings.for_plugin("spamcontrollog", {}, Log(writer))).for_session()
        for hook, ruling in rulings:
            getattr(plugin, hook)(client, ruling)
    finally:
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            text = stream.read()
    assert not text or text.endswith(b"\n")
    return text.decode("ascii").split("\n")[:-1]


def peer() -> Client:
    client = Client(Peer(ip=b"192.0.2.1", host=b"client.example"))
    client.helo, client.esmtp = b"mail.example", True
    return client


MAIL = ("ok", made("mail", "", ACCEPTED, b"a@b.example", replies.OK))
RCPT = ("ok", made("rcpt", "rcpthosts", ACCEPTED, b"x@ok.example", replies.OK))


@pytest.mark.parametrize(
    ("ruling", "condition", "recipient"),
    [
        (made("rcpt", "default", REFUSED, b"t@x"), "SNDR::Invalid_Relay", "t@x"),
        (made("rcpt", "rcpthosts: not listed", REFUSED, b"t"), "SNDR::Invalid_Relay", "t"),
        (made("rcpt", "badmailfrom", REFUSED, b"t"), "ORIG::Bad_Mailfrom", "t"),
        (made("rcpt", "badmailfrom:2", REFUSED, b"t"), "ORIG::Bad_Mailfrom", "t"),
        (made("rcpt", "helocheck", REFUSED, b"t"), "SNDR::Bad_Helo", "t"),
        (made("rcpt", "localmfcheck", REFUSED, b"t"), "ORIG::Invalid_Mailfrom", "t"),
        (made("rcpt", "badrcptto", REFUSED, b"t"), "RCPT::Bad_Rcptto", "t"),
        (made("rcpt", "recipients", REFUSED, b"t"), "RCPT::Failed_Rcptto", "t"),
        (
            made("rcpt", "", REFUSED, b"t", replies.TOO_MANY_RECIPIENTS),
            "RCPT::Toomany_Rcptto",
            "t",
        ),
        (made("rcpt", "", REFUSED, b"", replies.TLS_REQUIRED), "TLS::missing", ""),
        (made("rcpt", "", REFUSED, b"", replies.SYNTAX), "SMTP::Syntax_Error", ""),
        (made("queue", "", REFUSED, b"", replies.TOO_BIG), "DATA::Invalid_Size", "x@ok.example"),
        (
            made("queue", "", REFUSED, b"", b"552 sorry, that (#5.3.4)"),
            "DATA::Invalid_Size",
            "x@ok.example",
        ),
        (
            made("queue", "", REFUSED, b"", replies.TOO_MANY_HOPS),
            "SMTP::Toomany_Hops",
            "x@ok.example",
        ),
        (
            made("queue", "", REFUSED, b"", b"451 qq crashed (#4.3.0)", b"signal 9"),
            "DATA::Queue",
            "x@ok.example",
        ),
        (made("header", "headers", REFUSED), "DATA::Headers", "x@ok.example"),
        (made("data", "/opt/my plugins/odd one.py", REFUSED), "DATA::Odd_one", "x@ok.example"),
        (
            made("rcpt", "badmailfrom", REFUSED, b"t", replies.PLUGIN_TROUBLE),
            "RCPT::Plugin_Trouble",
            "t",
        ),
        *(
            (
                made("queue", "", REFUSED, b"", b"554 sorry, invalid message content x", exit),
                f"DATA::{condition}",
                "x@ok.example",
            )
            for exit, condition in (
                (b"32", "Virus_Infected"),
                (b"33", "Spam_Message"),
                (b"34", "MIME_Attach"),
                (b"35", "Invalid_Content"),
            )
        ),
    ],
)
def test_refusals(ruling: Ruling, condition: str, recipient: str) -> None:
    another = ("ok", made("rcpt", "rcpthosts", ACCEPTED, b"second@ok.example", replies.OK))
    accepted, _, refused = logged(peer(), MAIL, RCPT, another, ("deny", ruling))
    common = ("ESMTP", "192.0.2.1:client.example", "mail.example")
    accept = "Accept::RCPT::Rcpthosts_Rcptto"
    assert read(accepted) == (accept, *common, "a@b.example", "x@ok.example")
    assert read(refused) == ("Reject::" + condition, *common, "a@b.example", recipient)


def test_what_has_no_sender() -> None:
    """The sender of one transaction stands on no line of another, or of none."""
    client = peer()
    client.helo, client.esmtp = None, False
    lines = logged(
        client,
        ("deny", made("connect", "rblsmtpd", REFUSED)),
        MAIL,
        RCPT,
        ("deny", made("mail", "", REFUSED, b"", replies.AUTH_REQUIRED)),
        ("deny", made("mail", "nosy", REFUSED, b"c@d", b"550 no")),
        ("deny", made("rcpt", "", REFUSED, b"", replies.MAIL_FIRST)),
        ("deny", made("unknown", "", REFUSED, b"", replies.UNIMPLEMENTED)),
        ("ok", made("mail", "", ACCEPTED, b"", replies.OK)),
        ("deny", made("queue", "", REFUSED, b"", replies.RCPT_FIRST)),
    )
    common = ("SMTP", "192.0.2.1:client.example", "unknown")
    assert [read(line) for line in lines] == [
        ("Reject::SNDR::Rblsmtpd", *common, "", ""),
        ("Accept::RCPT::Rcpthosts_Rcptto", *common, "a@b.example", "x@ok.example"),
        ("Reject::AUTH::missing", *common, "", ""),
        ("Reject::ORIG::Nosy", *common, "c@d", ""),
        ("Reject::SMTP::Syntax_Error", *common, "", ""),
        ("Reject::SMTP::Syntax_Error", *common, "", ""),
        ("Reject::SMTP::Syntax_Error", *common, "", ""),
    ]


def test_who_may_relay() -> None:
    granted = ("ok", made("rcpt", "relay", ACCEPTED, b"x@y", replies.OK))
    (line,) = logged(peer(), granted)
    assert read(line)[0] == "Accept::SNDR::Relay_Client"
    (line,) = logged(peer(), granted, LOCALMFCHECK="")
    assert read(line)[0] == "Accept::ORIG::Local_Sender"


def test_auth_and_tls() -> None:
    client = peer()
    refusal = made("auth", "", REFUSED, b"j'oe x", replies.AUTH_FAILED, b"CRAM-MD5")
    (refused,) = logged(client, ("deny", refusal))
    place = "192.0.2.1:client.example"
    assert read(refused) == ("Reject::AUTH::cram-md5", "ESMTP", place, "j?oe?x")
    (malformed,) = logged(client, ("deny", made("auth", "", REFUSED, b"", replies.AUTH_UNKNOWN)))
    assert read(malformed)[0] == "Reject::SMTP::Syntax_Error"
    client.auth = Auth(b"joe", b"PLAIN")
    (accepted,) = logged(client, ("ok", made("auth", "", ACCEPTED, b"joe", replies.AUTH_OK)))
    assert read(accepted) == ("Accept::AUTH::plain", "ESMTPA", place, "joe")
    for fingerprint, shown in ((None, "none"), (b"ab12", "sha256:ab12")):
        client = Client(peer().peer, Tls(b"TLSv1.3", b"TLS_AES", fingerprint=fingerprint))
        (on,) = logged(client, ("ok", made("starttls", "", ACCEPTED, b"TLS_AES")))
        assert read(on) == ("Accept::TLS::TLS_AES", "ESMTPS", place, shown)
    client.esmtp = True
    (line,) = logged(client, RCPT)
    assert read(line)[1] == "ESMTPS"


HOSTILE = st.binary(max_size=60) | st.sampled_from(
    [
        b"a F:b T:c",
        b"x\nqmail-smtpd: pid 1 Reject::SNDR::Bad_Helo P:SMTP",
        b"x\r\n",
        b"' '",
        b":F:x",
        b"Reject::SNDR::Bad_Helo",
        b"aAccept::AUTH::plain",
        b"REJECT ACCEPT",
        b"\xe4\xff\0",
        b"x" * 5000,
        b"[IPv6:2001:db8::1]",
    ]
)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_nothing_can_be_forged(helo: bytes, host: bytes, sender: bytes, recipient: bytes) -> None:
    client = peer()
    client.peer.host, client.helo = host, helo
    mail = ("ok", made("mail", "", ACCEPTED, sender, replies.OK))
    refusal = ("deny", made("rcpt", "badrcptto", REFUSED, recipient, b"553 no"))
    failure = ("deny", made("auth", "", REFUSED, sender or b"x", b"535 no", b"PLAIN"))
    envelope, auth = logged(client, mail, refusal, failure)
    # As its users' programs do it: by regular expression, by spaces, by searching.
    assert read(envelope)[0] == "Reject::RCPT::Bad_Rcptto"
    assert read(auth)[0] == "Reject::AUTH::plain"
    words = envelope.split(" ")
    assert [re.match(r"[A-Z]:|", word).group() for word in words[4:]] == [  # type: ignore[union-attr]
        "P:",
        "S:",
        "H:",
        "F:",
        "T:",
    ]
    for line in (envelope, auth):
        assert len(re.findall("(?i)reject", line)) == 1
        assert not re.search("(?i)accept", line)
        assert line.isascii() and line.isprintable() and len(line) < 4096
    plain = re.sub(rb"[^!-&(-~]", b"?", recipient[:900])
    plain = re.sub(rb"(?i)a(?=ccept)|r(?=eject)", b"?", plain)
    assert envelope.endswith(" T:" + plain.decode())


def test_other_formats() -> None:
    settings = Settings(ControlFiles(b"/nonexistent"), {b"LOGFORMAT": b"qsmtpd"})
    reader, writer = os.pipe()
    plugin = Plugin(settings.for_plugin("spamcontrollog", {}, Log(writer))).for_session()
    plugin.deny(peer(), made("rcpt", "default", REFUSED))
    os.close(writer)
    assert os.read(reader, 100) == b""
    os.close(reader)
    with pytest.raises(ControlError):
        settings = Settings(ControlFiles(b"/nonexistent"), {b"LOGFORMAT": b"apache"})
        Plugin(settings.for_plugin("spamcontrollog", {}, Log(2)))


# -- whole sessions --------------------------------------------------------


def mrtg(log: str) -> tuple[int, int]:
    """How many were accepted and refused, as the graphs of SPAMCONTROL's author count it.

    They look at what begins with the first A and the first R of a line, whatever
    line it is.
    """
    accepted = refused = 0
    for line in log.splitlines():
        accepted += line[line.find("A") :].lower().startswith("accept") and "A" in line
        refused += line[line.find("R") :].lower().startswith("reject") and "R" in line
    return accepted, refused


def theirs(log: str) -> list[tuple[str, ...]]:
    """The lines in SPAMCONTROL's form; all others must be ours."""
    lines = [line for line in log.splitlines() if not line.startswith(("event=", "oracle"))]
    return [read(line) for line in lines]


@pytest.mark.slow
def test_a_session(home: Home) -> None:
    home.control("badmailfrom", "@bad.example")
    home.control("databytes", "1000")
    rules = '127.:allow,LOGFORMAT="spamcontrol",MAXRECIPIENTS="1",TCPREMOTEHOST="c.example"'
    with tcpserver(home, rules) as listener:
        listener.session(
            b"EHLO me  F:forged@x",
            b"RCPT TO:<x@ok.example>",
            b"MAIL FROM:<a@bad.example>",
            b"RCPT TO:<x@ok.example>",
            b"MAIL FROM:<a b@c.example>",
            b"RCPT TO:<x@no.example>",
            b"RCPT TO:<x@ok.example>",
            b"RCPT TO:<y@ok.example>",
            b"DATA",
            b"x" * 1001 + b"\r\n.",
            b"MAIL FROM:<a@c.example> SIZE=1001",
            b"EHLO Accept::RCPT::Rcpthosts_Rcptto",
            b"MAIL FROM:<Reject::ORIG::@no.example>",
            b"RCPT TO:<x@sub.ok.example>",
            b"RCPT TO:<x@ok.example>",
            b"DATA",
            b"good\r\n.",
            b"QUIT",
        )
        log = listener.log()
    common = ("ESMTP", "127.0.0.1:c.example", "me??F:forged@x")
    hostile = (*common[:2], "?ccept::RCPT::Rcpthosts_Rcptto", "?eject::ORIG::@no.example")
    assert theirs(log) == [
        ("Reject::SMTP::Syntax_Error", *common, "", ""),
        ("Reject::ORIG::Bad_Mailfrom", *common, "a@bad.example", "x@ok.example"),
        ("Reject::SNDR::Invalid_Relay", *common, "a?b@c.example", "x@no.example"),
        ("Accept::RCPT::Rcpthosts_Rcptto", *common, "a?b@c.example", "x@ok.example"),
        ("Reject::RCPT::Toomany_Rcptto", *common, "a?b@c.example", "y@ok.example"),
        ("Reject::DATA::Invalid_Size", *common, "a?b@c.example", "x@ok.example"),
        ("Reject::DATA::Invalid_Size", *common, "", ""),
        ("Reject::SNDR::Invalid_Relay", *hostile, "x@sub.ok.example"),
        ("Accept::RCPT::Rcpthosts_Rcptto", *hostile, "x@ok.example"),
    ]
    assert mrtg(log) == (2, 7)
    # Those that say the same are silent, and the others are not.
    assert "event=refused" not in log
    assert log.count("event=message") == 2
    assert "verdict=accepted" in log
    assert "event=session" in log


@pytest.mark.slow
def test_a_session_with_auth_and_tls(home: Home) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    home.environ["SEEN"] = str(home.path / "seen")
    home.arguments = [str(PROGRAMS / "checker"), "true"]
    rules = '127.:allow,LOGFORMAT="spamcontrol",SMTPAUTH="",AUTHDELAY="0",MAXAUTHFAILURES="2"'
    with tcpserver(home, rules) as listener:
        client = smtplib.SMTP("127.0.0.1", listener.port, "me", timeout=PATIENCE)
        client.starttls()
        client.ehlo()
        client.user, client.password = "joe", "secret"
        client.auth("PLAIN", client.auth_plain)
        client.sendmail("a@b.example", ["x@no.example"], "Subject: x\n\n")
        client.quit()
        client = smtplib.SMTP("127.0.0.1", listener.port, "me", timeout=PATIENCE)
        client.starttls()
        client.ehlo()
        for _ in range(2):
            client.docmd("AUTH PLAIN " + base64.b64encode(b"\0o'h no\0wrong!").decode())
        client.close()
        wait_for(lambda: listener.log().count("event=session") == 2)
        log = listener.log()
    lines = theirs(log)
    place = "127.0.0.1:unknown"
    on = ("Accept::TLS::TLS_AES_256_GCM_SHA384", "ESMTPS", place, "none")
    assert lines == [
        on,
        ("Accept::AUTH::plain", "ESMTPSA", place, "joe"),
        ("Accept::SNDR::Relay_Client", "ESMTPSA", place, "me", "a@b.example", "x@no.example"),
        on,
        ("Reject::AUTH::plain", "ESMTPS", place, "o?h?no"),
        ("Reject::AUTH::plain", "ESMTPS", place, "o?h?no"),
    ]
    assert "event=auth" not in log
    assert log.count("event=tls") == 2  # what SPAMCONTROL's line does not say: why it failed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exit", "condition"), [(32, "Virus_Infected"), (33, "Spam_Message"), (34, "MIME_Attach")]
)
def test_what_the_scanner_says(home: Home, tmp_path: Path, exit: int, condition: str) -> None:
    program = home.script(f"cat >/dev/null; cat <&1 >/dev/null; exit {exit}\n")
    rules = (
        f'127.:allow,LOGFORMAT="spamcontrol",QUEUEEXITS="spamcontrol",QMAILQUEUE="{program}",'
        'REPLY_CONTENT="see http://x.example/"'
    )
    with tcpserver(home, rules) as listener:
        transaction = (b"MAIL FROM:<a@b>", b"RCPT TO:<x@ok.example>", b"DATA", b"x\r\n.")
        replies = listener.session(*transaction, b"QUIT")
        log = listener.log()
    reply = b"554 sorry, invalid message content see http://x.example/ (#5.3.2)"
    assert replies[4] == reply
    assert [line[0] for line in theirs(log)] == [
        "Accept::RCPT::Rcpthosts_Rcptto",
        f"Reject::DATA::{condition}",
    ]


@pytest.mark.slow
def test_a_refusal_at_connect(home: Home) -> None:
    """Another plugin's, of which SPAMCONTROL knows nothing: its name is the condition."""
    home.plugin(
        "other",
        """
        from qsmtpd.decision import reject

        def connect(client):
            return reject(b'no')
        """,
    )
    rules = '127.:allow,LOGFORMAT="spamcontrol",QSMTPD_PLUGINS="other"'
    with tcpserver(home, rules) as listener:
        assert listener.session() == [b"554 no (#5.7.1)"]
        assert theirs(listener.log()) == [
            ("Reject::SNDR::Other", "SMTP", "127.0.0.1:unknown", "unknown", "", "")
        ]
