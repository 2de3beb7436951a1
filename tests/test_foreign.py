"""What decides about mail elsewhere and does nothing here is `wrong` for --check."""

from __future__ import annotations

import pytest
from harness import Home

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.diagnose import foreign
from qsmtpd.diagnose.elsewhere import NUMBERS, SETTINGS, SPAMCONTROLS

NAMES = [
    (name, advice)
    for advice, variables, files in SETTINGS
    for name in variables.split() + ["control/" + file for file in files.split()]
]


def idle(home: Home, **variables: str) -> dict[str, str]:
    """What --check has to say, by the file or variable."""
    environ = {name.encode(): value.encode() for name, value in variables.items()}
    return dict(foreign.idle_switches(Settings(ControlFiles(str(home.path).encode()), environ)))


def set_to(home: Home, name: str, value: str) -> dict[str, str]:
    """What it says where this file or variable has this value."""
    if name.startswith("control/"):
        home.control(name.removeprefix("control/"), value)
        return idle(home)
    return idle(home, **{name: value})


@pytest.mark.sample(4)
@pytest.mark.parametrize(("name", "advice"), NAMES)
def test_each_has_its_sentence(home: Home, name: str, advice: str) -> None:
    name = name.replace("*", "SENDERMX")
    assert idle(home) == {}
    assert set_to(home, name, "1") == {name: advice}
    file = name.removeprefix("control/")
    assert set_to(home, name, "0") == ({} if file in NUMBERS.split() else {name: advice})
    if file == name:
        assert set_to(home, name, "-") == ({} if name in SPAMCONTROLS.split() else {name: advice})
        assert (name in set_to(home, name, "")) == (name not in NUMBERS.split())


def test_the_program_says_so(home: Home) -> None:
    home.control("badmailtonorelay", "joe@ok.example")
    home.control("mfcheck", "1")
    run = home.run(b"", "--check", CHKUSER_RCPTLIMIT="50", FORCE_TLS="1", DISABLE_BADMAILFROM="")
    assert run.status == 1
    wrong = [line for line in run.out.decode().splitlines() if line.startswith("wrong: ")]
    assert [line.split(": ")[1] for line in wrong] == [
        "control/mfcheck",
        "CHKUSER_RCPTLIMIT",
        "control/badmailtonorelay",
        "DISABLE_BADMAILFROM",
        "FORCE_TLS",
    ]
    assert wrong[-1] == "wrong: FORCE_TLS: is not read: use FORCETLS=1"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("badmailfromnorelay", "badmailfrom:2 badmailfrom=badmailfromnorelay immune=relay"),
        ("badrcpttonorelay", "badrcptto:2 badrcptto=badrcpttonorelay immune=relay"),
        ("badmailtonorelay", "badrcptto:2 badrcptto=badmailtonorelay immune=relay"),
    ],
)
def test_the_advice_for_files_of_who_may_not_relay(home: Home, file: str, line: str) -> None:
    """As it stands in the sentence it works, and then there is nothing wrong."""
    home.control(file, "@ok.example")
    assert idle(home)["control/" + file].endswith(line)
    home.control("plugins", line, "builtins")
    assert idle(home) == {}
    commands = b"MAIL FROM:<a@ok.example>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n"
    assert home.run(commands).codes == [220, 250, 553, 221]
    assert home.run(commands, RELAYCLIENT="").codes == [220, 250, 250, 221]


def test_filters_that_are_off_on_purpose(home: Home) -> None:
    """As our own advice is, it is a warning: mail flows, and as it was wanted."""
    home.control("badmailfrom", "@bad.example")
    home.control("badhelo", "bad.example")
    lines = home.run(b"", "--check", QSMTPD_PLUGINS="-badmailfrom", HELOCHECK="!")
    assert lines.status == 0
    assert [line for line in lines.out.decode().splitlines() if line[:2] != "ok"] == [
        "warning: control/badmailfrom: is set, but its filter badmailfrom has been taken out by"
        " QSMTPD_PLUGINS",
        "warning: control/badhelo: is not asked where HELOCHECK is !",
    ]


def test_lines_of_filters_that_nothing_switches_on(home: Home) -> None:
    def off(**variables: str) -> list[tuple[str, str]]:
        environ = {name.encode(): value.encode() for name, value in variables.items()}
        return foreign.switched_off(Settings(ControlFiles(str(home.path).encode()), environ))

    home.control(
        "plugins", "tarpit", "bouncecheck bouncecheck=1", "loop", "validrcptto", "builtins"
    )
    validrcptto = "validrcptto does nothing here without VALIDRCPTTO_CDB or control/validrcptto.cdb"
    tarpit = "tarpit does nothing here without TARPITCOUNT or control/tarpitcount"
    assert off() == [("control/plugins", tarpit), ("control/plugins", validrcptto)]
    assert off(TARPITCOUNT="3") == [("control/plugins", validrcptto)]
    home.control("plugins", "builtins")
    assert off(QSMTPD_PLUGINS="greetdelay greetdelay=3,rcptcheck") == [
        ("QSMTPD_PLUGINS", "rcptcheck does nothing here without RCPTCHECK")
    ]


@pytest.mark.parametrize(
    ("entries", "recipients"),
    [(["*%*", "*@*@*", "*!*"], ["a%b@ok.example", "a@b@ok.example", "a!b@ok.example"])],
)
def test_the_advice_for_relay_probes(home: Home, entries: list[str], recipients: list[str]) -> None:
    home.control("badrcptto", *entries)
    lines = [b"MAIL FROM:<>", *(b"RCPT TO:<%b>" % x.encode() for x in recipients)]
    commands = b"".join(line + b"\r\n" for line in [*lines, b"RCPT TO:<joe@ok.example>", b"QUIT"])
    assert home.run(commands).codes == [220, 250, *[553] * len(recipients), 250, 221]


def test_the_advice_for_names_without_a_dot(home: Home) -> None:
    home.control("badhelo", "*", "!*.*")
    for helo, code in ((b"mx", 550), (b"mx.example", 250)):
        run = home.run(b"HELO %b\r\nMAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n" % helo)
        assert run.codes == [220, 250, 250, code, 221]
