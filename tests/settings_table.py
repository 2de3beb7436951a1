"""Every setting: its names, values that are right, and values that are wrong.

test_settings.py tries them all.  A setting that the manual names, or that a
session asks for, and that has no row here, fails there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness import PROGRAMS, Variables

DIGITS = 10**20 - 1  # the greatest number that has 20 of them
NUMBERS = (b"x", b"-1", b"1k", b"0x9", b" 1", b"1 2", b"9" * 21, b"\xef\xbb\xbf1")
DELAYS = (b"61", b"-61", b"--1", b"-", *(text for text in NUMBERS if text != b"-1"))


@dataclass(frozen=True)
class Row:
    """One setting.

    `right` has values, and what --check shows of each, None where it does not
    matter; `wrong`, values that are 421.  `unread` are those with which a session
    starts and no mail flows, or the setting does nothing, which --check has to call
    wrong; `says` is what it calls it then, where that is not its name.  `empty` is
    what it shows of an empty value, or WRONG or UNREAD.  `on`: what else has to be
    set, or the setting is not looked for; there, `control/x` is a file.  `tls`: what
    is wrong takes TLS away and no mail, unless TLS is required.
    """

    file: str | None
    variable: str | None
    right: dict[bytes, object]
    wrong: tuple[bytes, ...] = ()
    empty: object = None
    unread: tuple[bytes, ...] = ()
    on: Variables = field(default_factory=dict)
    says: str = ""
    tls: bool = False
    empty_file: object = None  # as `empty`, where it is another of the file than of the variable

    @property
    def name(self) -> str:
        """What --check calls it."""
        return self.file or self.variable or ""

    def means_empty(self, file: bool) -> object:
        """What an empty file, or an empty variable, is."""
        return self.empty_file if file and self.empty_file is not None else self.empty


#: This one is there, with a user.
RIGHT_CDB = b"users/x.cdb"
#: Of an empty value: wrong; or as `unread`.
WRONG, UNREAD = object(), object()


def number(
    file: str | None,
    variable: str,
    least: int = 0,
    most: int = DIGITS,
    empty: object = WRONG,
    there: str = "",
    **on: str,
) -> Row:
    """From `least` to `most`."""
    beyond = () if most == DIGITS else (b"%d" % (most + 1),)
    below = () if least == 0 else (b"%d" % (least - 1), b"0" * 3)
    right = {b"%d" % value: value for value in (least, most)} | {b"0%d" % least: least}
    return Row(file, variable, dict(right), (*NUMBERS, *below, *beyond), empty,
               on={**on, **_there(there)})  # fmt: skip


def words(file: str | None, variable: str, *known: str, **on: str) -> Row:
    """One of these; the first is the default."""
    junk = (b"x", known[0].upper().encode() + b"x", b" " + known[0].encode())
    return Row(file, variable, {word.encode(): word for word in known}, junk, WRONG, on=on)


def text(file: str | None, variable: str | None, *right: str, **on: str) -> Row:
    """A line of text."""
    wrong = (b"a\x01b", b"x" * 1001, b"\x7f", b"\xef\xbb\xbfx")
    return Row(file, variable, {value.encode(): value for value in right}, wrong, "", on=on)


def reply(variable: str, file: str = "", **on: str) -> Row:
    """What is added to a reply, of a filter that this control file switches on, if any."""
    wrong = (b"x" * 301, b"a\tb", b"\xff")
    right: dict[bytes, object] = {b"call us": "call us", b"x" * 300: "x" * 300}
    return Row(None, variable, right, wrong, "", on={**on, **_there(file)})


def tls(row: Row) -> Row:
    """One of TLS."""
    return replace(row, tls=True)


def _there(file: str) -> Variables:
    return {"control/" + file: "!*"} if file else {}


def entries(
    file: str,
    *right: str,
    wrong: tuple[str, ...] = (),
    unread: tuple[str, ...] = (),
    empty: object = "0 entries",
    **on: str | None,
) -> Row:
    """A list, of which each value is one entry."""
    return Row(
        file,
        None,
        {entry.encode(): "1 entry" for entry in right},
        tuple(entry.encode() for entry in wrong),
        empty,
        tuple(entry.encode() for entry in unread),
        on,
    )


BOM = "\ufeffexample.org"
NEVER = ("a b@example.org #", "user@example.org # ours", BOM, "example.org")
NO_DOMAIN = ("@example.org", "*.example.org", "example.org # ours", "a@example.org", "!a.example",
             "example.org:25", "x" * 256, BOM)  # fmt: skip
#: Of a socket at which Dovecot is; of none; and of one at which nobody is.
USERDB, AUTH = b"users/userdb", b"users/auth"
#: A file of qmail-spp.
CONTENT = {"control/badheaders": "X: y"}
SPP = {"control/smtpplugins": "[mail]\n/bin/true"}
#: Of a policy server, of a milter, and of scanners.
POLICY, MILTER = b"users/policy", b"users/milter"
#: Of a store that can be made, and of a filter that wants one.
STORE = {"QSMTPD_STORE": "users/store"}
GREYLIST = {"GREYLIST": "", **STORE}
SENDLIMITS = {"control/sendlimits": "user:* messages=1/hour", **STORE}
#: What nobody is to read in --check.
HIDDEN = {"storekey"}
#: Of a server that is one.
REDIS = b"unix:users/redis"
SHARED = {"GREYLIST": "", "QSMTPD_STORE": REDIS.decode()}
CLAMD, SPAMD, RSPAMD = b"users/clamd", b"users/spamd", b"users/rspamd"
NO_ADDRESS = (b"unix:", b"inet:127.0.0.1", b"inet:127.0.0.1:0", b"inet:mail.example:1", b"/a\x01b",
              b"/" + b"x" * 120)  # fmt: skip
NO_DAEMON = (b"/no/such/socket", b"no/such/socket", b"inet:127.0.0.1:1")


def scanner(file: str, *options: str, wrong: tuple[str, ...] = ()) -> Row:
    """A list of scanners, which are at users/FILE; these options are right besides those of all."""
    common = "name=x timeout=5 fail=pass size=1000 beyond=refuse headers=no"
    bad = ("timeout=0", "fail=no", "size=0", "size=1k", "beyond=x", "headers=", "x=y", "x", *wrong)
    return entries(
        file,
        *(f"users/{file} {option}".strip() for option in ("", common, *options)),
        wrong=("unix:", "inet:mail.example:1", "/s # ours", BOM, *(f"/s {text}" for text in bad)),
        unread=("/no/such/socket", "no/such/socket fail=pass", "inet:127.0.0.1:1"),
        empty=UNREAD,
    )


ROWS = [
    # qsmtpd-control(5)
    Row("me", None, {b"mx.example": "mx.example"}, (b"a\x01b", b"x" * 1001), WRONG,
        (b"# my name", b".")),
    text("smtpgreeting", None, "mx.example hello"),
    text("localiphost", None, "mx.example"),
    entries("rcpthosts", "example.org", ".example.org", "[192.0.2.1]", unread=NO_DOMAIN),
    Row("plugins", None, {b"rcpthosts": "1 entry", b"builtins": "1 entry"},
        (b"nosuch", b"tarpit x=1", b"tarpit tarpitcount", b"/no/such.py", b"\xef\xbb\xbftarpit"),
        "0 entries"),
    Row(None, "QSMTPD_PLUGINS", {b"-tarpit": "-tarpit", b"tarpit tarpitcount=3": None,
        b"": None, b",": None}, (b"nosuch", b"-nosuch", b"tarpit x=1"), ""),
    words("postpone", "POSTPONE", "none", "rcpt", "data"),
    words("chunking", "CHUNKING", "on", "off"),
    words("enhancedstatuscodes", "ENHANCEDSTATUSCODES", "off", "on"),
    words("smtputf8", "SMTPUTF8", "local", "on", "off"),
    number("databytes", "DATABYTES", empty=0),
    reply("REPLY_MAXSIZE"),
    number("maxrecipients", "MAXRECIPIENTS", 1),
    number("maxhops", "MAXHOPS", 1),
    number("maxaddrlen", "MAXADDRLEN", 256),
    words("barelf", "BARELF", "reject", "reject-all", "normalize"),
    number("timeoutsmtpd", "TIMEOUTSMTPD", 1),
    number("mindatarate", "MINDATARATE"),
    number("sessiontimeout", "SESSION_TIMEOUT", 1),
    number("maxcmdlen", "MAXCMDLEN", 512),
    number("softerrors", "SOFTERRORS"),
    number("errordelay", "ERRORDELAY"),
    number("maxerrors", "MAXERRORS"),
    number("maxjunk", "MAXJUNK"),
    Row("tlsserverciphers", "TLSCIPHERS", {b"HIGH": None}, (b"a\x01b",), None, tls=True),
    tls(words("tlsminimum", "TLSMINIMUM", "TLSv1.2", "TLSv1.3", "TLSv1.1", "TLSv1")),
    tls(number("tlstimeout", "TLSTIMEOUT", 1)),
    tls(words("tlsalpn", "TLSALPN", "any", "smtp")),
    tls(words("starttlsinjection", "STARTTLSINJECTION", "discard", "refuse")),
    tls(entries("tlsclients", "a@example.org", "sha256:" + "0f" * 32, "a@example.org joe",
                wrong=("example.org", "sha256:0f", "sha256:" + "0" * 64, BOM,
                       "a@example.org # joe", "a@example.org #joe"))),
    text("authclear", "AUTHCLEAR", "0", "1", "yes"),
    Row("authmechanisms", "AUTHMECHANISMS", {b"PLAIN": None, b"plain CRAM-MD5": None},
        (b"x", b"PLAIN,LOGIN", b"PLAIN PLAIN", b"\xef\xbb\xbfPLAIN"), WRONG, (b"EXTERNAL",),
        on={"SMTPAUTH": "", "AUTHCLEAR": "1"}),
    Row("scramprogram", "SCRAMPROGRAM", {b"/bin/cat -u": "/bin/cat -u"}, (b"a\x01b", b"x" * 1001),
        UNREAD, (b"/no/such", b"/etc/passwd", b"no-such-program", b"/bin/true"),
        on={"SMTPAUTH": "", "AUTHMECHANISMS": "SCRAM-SHA-256", "AUTHCLEAR": "1"}),
    Row("tokenprogram", "TOKENPROGRAM", {b"/bin/cat -u": "/bin/cat -u"}, (b"a\x01b", b"x" * 1001),
        UNREAD, (b"/no/such", b"/etc/passwd", b"no-such-program", b"/bin/true"),
        on={"SMTPAUTH": "", "AUTHMECHANISMS": "XOAUTH2", "AUTHCLEAR": "1"}),
    Row("dovecotauth", "DOVECOTAUTH", {AUTH: AUTH.decode(), b"unix:" + AUTH: None}, NO_ADDRESS, "",
        NO_DAEMON, empty_file=WRONG),
    number("authtimeout", "AUTHTIMEOUT", 1),
    number("authdelay", "AUTHDELAY"),
    number("maxauthfailures", "MAXAUTHFAILURES", 1),
    words("cramorder", "CRAMORDER", "response", "challenge"),
    words("authargv", "AUTHARGV", "program", "host"),
    text("authhide", "AUTHHIDE", "0", "1"),
    words("submissionheader", "SUBMISSIONHEADER", "leave", "fill"),
    number("queuewritetimeout", "QUEUEWRITETIMEOUT", 1),
    number("queuetimeout", "QUEUETIMEOUT", 1),
    number("errorfd", "ERROR_FD", 2, 9),
    words("queueenv", "QUEUEENV", "none", "spamcontrol"),
    words("queueexits", "QUEUEEXITS", "stock", "spamcontrol", "indimail", "sagredo"),
    reply("REPLY_CONTENT", QUEUEEXITS="spamcontrol"),
    # qsmtpd(8)
    Row(None, "SMTPAUTH", {word: word.decode() for word in (b"-", b"cram", b"+cram", b"!", b"!cram",
        b"!+cram")}, (b"x", b"cra", b"!x", b"+", b"LOGIN", b"! x"), "",
        on={"AUTHCLEAR": "1"}),
    number(None, "REQUIRE_AUTH", AUTHCLEAR="1"),
    Row(None, "QMAILQUEUE", {str(PROGRAMS / "oracle").encode(): str(PROGRAMS / "oracle")}, (),
        UNREAD, (b"/nonexistent/qq", b"/etc/passwd", b"/tmp"), says="queue program"),
    words(None, "LOGFORMAT", "qsmtpd", "spamcontrol"),
    # qsmtpd-tls(7)
    Row(None, "QSMTPD_TLS", {word: word.decode() for word in (b"auto", b"off", b"external")},
        (b"x", b"AUTO"), WRONG, (b"implicit",), says="tls", tls=True),
    Row(None, "SMTPS", {b"0": "0"}, (), UNREAD, (b"1",), says="tls"),
    Row(None, "FORCETLS", {b"0": "0"}, (), UNREAD, (b"1",)),
    Row(None, "UCSPITLS", {b"-": "-"}, (), "", (b"!", b"@")),
    # qsmtpd-filters(5)
    Row(None, "IMMUNE", {b"0": "0", b"1": "1"}, (), ""),
    entries("immune", "192.0.2.1", "192.0.2.", "2001:db8:", "2001:db8::1", ".example.org",
            unread=("192.0.2.0/24", "192.0.2", "mail.example.org", "2001:db8:0::1", BOM,
                    "192.0.2.1 # ours", "*.example.org")),
    number(None, "KARMALIMIT"),
    entries("proxyhosts", "192.0.2.7", "192.0.2.", "192.0.3.0/24", "2001:DB8::7", "2001:db8:",
            "2001:db8::/32", "0.0.0.0/0", "::/0", empty="0 entries",
            wrong=("192.0.2", "192.0.2.1/24", "192.0.2.0/33", "192.0.2.0/024", "2001:db8::1/64",
                   "::ffff:192.0.2.0/120", "/24", "192.0.2.0/", "mail.example", "192.0.2.7 # ours",
                   "192.0.2.7:25", ".", ":", "*", BOM), PROXYHOSTS=None),
    Row(None, "PROXYHOSTS", {b"192.0.2.7": "192.0.2.7", b"192.0.2.7,192.0.2.8 2001:db8::/32": None},
        (b"x", b"192.0.2.7;192.0.2.8", b"192.0.2.1/24", b"\x01"), ""),
    number("proxytimeout", "PROXYTIMEOUT", 1, 60, PROXYHOSTS="192.0.2.7"),
    words("proxytls", "PROXYTLS", "off", "on", PROXYHOSTS="192.0.2.7"),
    Row(None, "PROXYRULES", {RIGHT_CDB: RIGHT_CDB.decode()}, (b"no/such.cdb", b"\x01"), "",
        on={"PROXYHOSTS": "192.0.2.7"}),
    Row(None, "SMTPD_GREETDELAY", {b"0": "0", b"60": "60", b"-5": "-5"}, DELAYS, WRONG),
    Row("greetdelay", "GREETDELAY", {b"0": "0", b"60": "60", b"-60": "-60"}, DELAYS, WRONG),
    text(None, "DROP_PRE_GREET", "0", "1", GREETDELAY="0"),
    text(None, "RBLSMTPD", "bad", "-bad", "[RBL info] listed"),
    text(None, "RBLHEADER", "0", "1", RBLSMTPD="x"),
    Row(None, "HELOCHECK", {word: word.decode() for word in (b".", b"!", b"=", b"A", b"M")},
        (b"x", b"==", b"a", b"AM"), ""),
    entries("badhelo", "example.org", "*", "!x", "x!", "re:x+", wrong=("x[", "re:(", "[b-a]"),
            unread=("example.org # ours", BOM, "^x$")),
    reply("REPLY_HELO", HELOCHECK=""),
    entries("badmailfrom", "a@example.org", "@example.org", "*@x.example", "!a@x", "@a.example-",
            "@a.example=", "@a.example+", "~a.example", "?a@x", "re:.*@x\\.example",
            wrong=("x[", "~a*", "re:("), unread=(*NEVER, "^x@", "x@.*\\.example$")),
    reply("REPLY_BADMAILFROM", "badmailfrom"),
    entries("badrcptto", "a@example.org", "@example.org", "*@x.example", "!a@x", "re:.*@x",
            wrong=("x[", "re:("), unread=(*NEVER, "^x@")),
    reply("REPLY_BADRCPTTO", "badrcptto"),
    Row(None, "LOCALMFCHECK", {b"=": "=", b"?": "?", b"example.org": "example.org"},
        (b"\x01", b"@example.org", b"*.example.org", b"a b", b"!x", b".x"), "", (b"!",),
        says="control/mailfromrules"),
    entries("mailfromrules", "joe:@example.org", "192.0.2.:a@b.example,@c.example", "=:",
            empty=UNREAD, wrong=("joe", BOM), unread=("joe:@example.org # ours",
            "joe: @example.org", "joe:example.org", "joe:*@example.org"), LOCALMFCHECK="!"),
    reply("REPLY_SENDERINVALID", LOCALMFCHECK=""),
    reply("REPLY_NOGATEWAY"),
    Row("smtpplugins", None, {b"[mail]\n/bin/true": "2 entries", b"[rcpt]\n:exit 0": "2 entries"},
        (b"/bin/true", b"[pass]\n/bin/true", b"[mail]\n:", b"[mail]\n/bin/true\0"), UNREAD,
        (b"[mail]", b"[mail]\n/no/such", b"[mail]\n/etc/passwd", b"[mail]\n/bin/true # ours",
         b"[mail]\n:/no/such x")),
    Row(None, "SPPCONFFILE", {b"control/plugins.spp": "control/plugins.spp"},
        (b"control/nosuch", b"\x01"), "", on={**SPP, "control/plugins.spp": "[mail]\n/bin/true"}),
    Row(None, "NOSPP", {b"": "", b"0": "0", b"1": "1"}, (), "", on=SPP),
    replace(number(None, "SPPTIMEOUT", 1), on=SPP),
    number("tarpitcount", "TARPITCOUNT"),
    number("tarpitdelay", "TARPITDELAY", 0, 999, TARPITCOUNT="3"),
    text(None, "BOUNCECHECK", "0", "1"),
    entries("recipients", "!*", "!example.org", "*|true", "@example.org|true a", "a.b:users/x.cdb",
            empty=UNREAD,
            wrong=("example.org:", ":x", "example.org:nosuch.cdb", "!", "example.org|/no/such"),
            unread=("*.example.org|true", "a@example.org|true", "!@example.org", "!.example.org",
                    "example.org |true", "*|no-such-program-anywhere")),
    Row(None, "RECIPIENTS450", {b"1": "1"}, (b"\x01",), "", on={"control/recipients": "!*"}),
    number(None, "RECIPIENTSTIMEOUT", 1, there="recipients"),
    reply("REPLY_MAILBOX", RCPTCHECK=""),
    Row(None, "VALIDRCPTTO_CDB", {RIGHT_CDB: RIGHT_CDB.decode()}, (b"no/such.cdb", b"\x01"), ""),
    Row("dovecotusers", "DOVECOTUSERS", {USERDB: USERDB.decode(), b"unix:" + USERDB: None},
        NO_ADDRESS, "", NO_DAEMON, empty_file=WRONG),
    Row(None, "DOVECOTDELIMITER", {b"+": "+", b"-_.": "-_."}, (b"a", b"+1", b"@", b"x" * 1001), "",
        on={"DOVECOTUSERS": ""}),
    number(None, "DOVECOTUSERSTIMEOUT", 1, DOVECOTUSERS=""),
    Row(None, "RCPTCHECK", {b"/bin/true": "/bin/true"}, (b"nosuch", b"/no/such", b"\x01"), "",
        (b"/etc/passwd", b"/tmp")),
    text(None, "RCPTCHECKRELAYCLIENT", "0", "1", RCPTCHECK="/bin/true"),
    number(None, "RCPTCHECKTIMEOUT", 1, RCPTCHECK="/bin/true"),
    text(None, "MFDNSCHECK", "0", "1", "-"),
    reply("REPLY_SENDEREXIST", MFDNSCHECK=""),
    words("fcrdns", "FCRDNS", "note", "require"),
    Row(None, "DNSCACHEIP", {b"127.0.0.1": "127.0.0.1", b"127.0.0.2:1,[::1]:1": None},
        (b"x", b"127.0.0.1:", b"127.0.0.1:65536", b"::1%lo", b"127.0.0.1#53", b"\x01"), WRONG,
        on={"MFDNSCHECK": ""}),
    entries("resolvers", "127.0.0.1:1", "[::1]:1", "::1", empty=WRONG,
            wrong=("x", "127.0.0.1:0", "127.0.0.1 53", "127.0.0.1 # ours", BOM), FCRDNS="note",
            DNSCACHEIP=None),
    number("dnstimeout", "DNSTIMEOUT", 1, 300, MFDNSCHECK=""),
    number("dnssessiontimeout", "DNSSESSIONTIMEOUT", 1, 3600, MFDNSCHECK=""),
    words("dnstrouble", "DNSTROUBLE", "defer", "pass", MFDNSCHECK=""),
    entries("dnsbls", "bl.example", "BL.example. 2 127.0.0.[2-4,9] 127.1.*.*", "bl.example 1000",
            empty=UNREAD, wrong=("bl", "bl.example 1001", "bl.example x", "bl.example 10.0.0.1",
            "bl.example # ours", "192.0.2.1", "bl.example 127.0.0.[4-2]", BOM),
            unread=("bl.example 0", "bl.example -1")),
    replace(number("dnsblthreshold", "DNSBLTHRESHOLD"), on={"control/dnsbls": "bl.example"}),
    entries("rhsbls", "bl.example", "bl.example 2 127.0.1.*", empty=UNREAD,
            wrong=("bl", "bl.example +1", "bl.example 127.255.255.*", BOM),
            unread=("bl.example -1000",)),
    replace(number("rhsblthreshold", "RHSBLTHRESHOLD"), on={"control/rhsbls": "bl.example"}),
    number("spfbehavior", "SPFBEHAVIOR", 0, 6, empty=0),
    words("spfpermerror", "SPFPERMERROR", "pass", "reject", SPFBEHAVIOR="3"),
    words("spfstage", "SPFSTAGE", "rcpt", "data_post", SPFBEHAVIOR="3"),
    entries("policyservers", "unix:users/policy", "users/policy at=rcpt,data,data_post",
            "users/policy name=x timeout=5 fail=pass context=y", empty=UNREAD,
            wrong=("unix:", "inet:mail.example:1", "inet:127.0.0.1:0", "/s at=mail", "/s fail=no",
                   "/s timeout=0", "/s x=y", "/s # ours", BOM),
            unread=("/no/such/socket", "no/such/socket fail=pass", "inet:127.0.0.1:1")),
    number("clientlimit", "CLIENTLIMIT", 0, 100, **STORE),
    number("greylist", "GREYLIST", 0, 86400, 300, **STORE),
    number("greylistwindow", "GREYLISTWINDOW", 1, 720, **GREYLIST),
    number("greylistlifetime", "GREYLISTLIFETIME", 1, 366, **GREYLIST),
    number("greylistproved", "GREYLISTPROVED", 0, 1000, **GREYLIST),
    number("greylistipv4", "GREYLISTIPV4", 8, 32, **GREYLIST),
    number("greylistipv6", "GREYLISTIPV6", 16, 128, **GREYLIST),
    words("greylistskip", "GREYLISTSKIP", "none", "spf", "fcrdns", "either", **GREYLIST),
    replace(entries("greylistexempt", "192.0.2.1", "192.0.2.", "2001:db8::1", "2001:db8:",
                    ".example.org", wrong=("example.org", "192.0.2", "192.0.2.0/24", ".",
                    "@a.example", "*", BOM)), on=GREYLIST),
    replace(entries("greylistexemptfrom", "a@example.org", "@example.org", "*@x.example", "!a@x",
                    "re:.*@x\\.example", wrong=("x[", "re:("), unread=(*NEVER, "^x@")),
            on=GREYLIST),
    replace(entries("greylistexemptto", "a@example.org", "@example.org", "*@x.example", "!a@x",
                    "re:.*@x", wrong=("x[", "re:("), unread=(*NEVER, "^x@")), on=GREYLIST),
    reply("REPLY_GREYLIST", **GREYLIST),
    Row("store", "QSMTPD_STORE", {b"users/store": "users/store", REDIS: "unix:users/redis"},
        (b"a\x01b", b"x" * 1001, b"redis://", b"redis://mail.example", b"redis://127.0.0.1:0",
         b"rediss://127.0.0.1", b"redis://127.0.0.1/x", b"http://127.0.0.1"), WRONG,
        (b"/no/such/store", b"control", b"control/me", b"control/me/store", b"redis://127.0.0.1:1",
         b"unix:users/nobody"), {"GREYLIST": ""}),
    Row("storeprefix", "STOREPREFIX", {b"mx": "mx", b"x" * 64: None},
        (b"a b", b"a*", b"a:b", b"\xff", b"x" * 65), WRONG, on=SHARED),
    Row("storekey", None, {b"x" * 16: None, b"x" * 64: None}, (b"x" * 15, b"x" * 65), WRONG,
        on=SHARED),
    Row("storelocal", "STORELOCAL", {b"users/store": "users/store"}, (b"a\x01b", b"x" * 1001),
        WRONG, on=SHARED),
    number("storetimeout", "STORETIMEOUT", 1, 60, **GREYLIST),
    number("storesize", "STORESIZE", 1, 65536, **GREYLIST),
    entries("sendlimits", "user:joe messages=1/hour recipients=0/day",
            "user:@example.org messages=1000000000/day", "client:192.0.2. recipients=5/hour",
            "client:* messages=1/day", "client:2001:db8: messages=1/hour", empty=UNREAD,
            wrong=("joe messages=1/hour", "user:joe", "user:joe messages=1", "client:x unlimited",
                   "user:joe messages=1/week", "user:joe messages=1000000001/day", BOM),
            unread=("user:joe unlimited",), **STORE),
    words("sendlimitscode", "SENDLIMITSCODE", "452", "550", **SENDLIMITS),
    reply("REPLY_SENDLIMITS", **SENDLIMITS),
    words("dmarcpolicy", "DMARCPOLICY", "none", "reject", "off", SPFBEHAVIOR="1"),
    words("dmarcfrom", "DMARCFROM", "pass", "reject", DMARCPOLICY="reject", SPFBEHAVIOR="1"),
    entries("dmarcexempt", "192.0.2.1", "192.0.2.", "2001:db8::1", "2001:db8:", ".example.org",
            "@Lists.example.org", "@.example.org", "@b\u00fccher.example",
            wrong=("example.org", "192.0.2", "192.0.2.01", "2001:DB8::0", "@", "@.", "@a..b",
                   "@-x y", ".", "@192.0.2.1", "@example.org # ours", "*", BOM),
            DMARCPOLICY="reject", SPFBEHAVIOR="1"),
    number(None, "MAXNOTIMPL"),
    entries("milters", "unix:users/milter", "users/milter name=x content_timeout=5 fail=pass",
            empty=UNREAD,
            wrong=("unix:", "inet:mail.example:1", "/s content_timeout=0",
                   "/s content_timeout=3601", "/s content_timeout=x", "/s fail=accept",
                   "/s timeout=0", "/s at=rcpt", BOM),
            unread=("/no/such/socket", "no/such/socket fail=pass", "inet:127.0.0.1:1")),
    Row("requiredheaders", None, {b"From": "1 entry", b"-": "1 entry"},
        (b"From:", b"a b", b"\xff"), "0 entries"),
    Row(None, "REQUIREDHEADERS", {b"From,Date": "From,Date", b"From Date": None, b"-": "-"},
        (b"From:", b"\xff"), ""),
    Row("singleheaders", None, {b"From": "1 entry", b"-": "1 entry"},
        (b"From:", b"a b", b"\xff"), "0 entries"),
    Row(None, "SINGLEHEADERS", {b"From,Date": "From,Date", b"-": "-"}, (b"From:", b"\xff"), ""),
    number("datepast", "DATEPAST"),
    number("datefuture", "DATEFUTURE"),
    number("loopcheck", "LOOPCHECK", empty=10),
    entries("badheaders", "Subject: *x*", "re:to:[ ]*x.*", "!X: y", "*", wrong=("x: [", "re:("),
            unread=("Subject:x", "Subject", BOM, "^Subject:")),
    entries("badattachments", "*.exe", "a.exe", "!setup.exe", "re:.*\\.(exe|com)",
            wrong=("x[", "re:("), unread=(".exe", "a/b", BOM, ".*\\.exe")),
    replace(words("contentaction", "CONTENTACTION", "refuse", "mark"), on=CONTENT),
    replace(words("contentbeyond", "CONTENTBEYOND", "refuse", "mark", "pass"), on=CONTENT),
    Row(None, "BADMIMETYPE", {b"!": "!", b"+": "+", b"c": "c", b"-": "-"}, (b"xx", b"\x01"), "",
        on={"control/badmimetypes": "TVqQAAMAA"}),
    entries("badmimetypes", "TVqQAAMAA", "TVqQAAMAA a program", wrong=("TVqQAAMA",),
            unread=("TVqQ-AMAA", "TVqQ AMAA", BOM), BADMIMETYPE=""),
    Row(None, "BADLOADERTYPE", {b"+": "+", b"M": "M", b"-": "-"}, (b"MM", b"!", b"\x01"), "",
        on={"control/badloadertypes": "TVqQA"}),
    entries("badloadertypes", "TVqQA", "TVqQA a program", wrong=("TVqQ",),
            unread=("TVq=A", BOM), BADLOADERTYPE=""),
    number("dkim", "DKIM", most=32, empty=8),
    Row("authresults", "AUTHRESULTS", {b"mx.example": "mx.example", b"a_1-x": None},
        (b"a b", b"a;b", b"(a)", b"\xff", b"x" * 254), None),
    scanner("clamd", wrong=("reject=1",)),
    Row("messagecheck", "MESSAGECHECK", {b"/bin/true": "/bin/true"},
        (b"nosuch", b"/no/such", b"\x01"), "", (b"/etc/passwd", b"/tmp"), empty_file=UNREAD),
    number(None, "MESSAGECHECKTIMEOUT", 1, MESSAGECHECK="/bin/true"),
    words(None, "MESSAGECHECKFAIL", "defer", "pass", "refuse", MESSAGECHECK="/bin/true"),
    number(None, "MESSAGECHECKSIZE", MESSAGECHECK="/bin/true"),
    words(None, "MESSAGECHECKBEYOND", "pass", "defer", "refuse", MESSAGECHECK="/bin/true"),
    Row(None, "MESSAGECHECKHEADERS", {b"X-Check": "X-Check", b"X-A X-B-*": "X-A X-B-*"},
        (b"X:", b"*", b"*X", b"X-*-Y", b"\xff"), "", on={"MESSAGECHECK": "/bin/true"}),
    scanner("rspamd", "reject=never greylist=defer settings=x", wrong=("reject=x", "greylist=x")),
    scanner("spamd", "reject=verdict user=joe", "reject=-1.5", wrong=("reject=x", "greylist=pass")),
]  # fmt: skip
#: These have a file that is no text: two keys with data, a key that is none, what --check says of
#: that, and what is to be set.
_HOSTS = {b"example.org": b"@example.org", b".example.net": b""}
_USERS = {b"@example.org": b"", b"@.example.net": b""}
_PIECES = {b"TVqQAAMAA": b"", b"UEsDBBQAA": b""}
CDBS: dict[str, tuple[dict[bytes, bytes], bytes, str, Variables]] = {
    "morercpthosts.cdb": (_HOSTS, b"Example.org", "capitals", {}),
    "validrcptto.cdb": (_USERS, b"Example.org", "capitals", {}),
    "mailfromrules.cdb": (_HOSTS, b"Example.org", "capitals", {"LOCALMFCHECK": "!"}),
    "badmimetypes.cdb": (_PIECES, b"TVqQAAMAAA", "more than 9 characters", {"BADMIMETYPE": ""}),
    "badloadertypes.cdb": (
        {key[:5]: b"" for key in _PIECES}, b"TVqQ", "less than 5 characters",
        {"BADLOADERTYPE": ""},
    ),
}  # fmt: skip
