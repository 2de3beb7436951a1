"""The filter spp: plugins of qmail-spp, written by its documentation."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from filters import TAKEN, build, client, logged, rcpt, say, script
from harness import ROOT, Home
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.child.query import read
from qsmtpd.facts import ControlError, Envelope
from qsmtpd.filters import sppanswer, sppfile

FAILURE = b"451 qmail-spp failure (#4.3.0)"


# -- what plugins write ------------------------------------------------------


def test_all_commands() -> None:
    found = sppanswer.parse(
        b"Cx@y\nHX-A: 1\nH\t2\nHX-B: 3\nSa=b=c\nSd=\nUe\nP250 hello\nLM450 m\nLR550 r\nLD554 d\n"
        b"\nA\nwhat comes behind is not read\n"
    )
    assert found.end == b"A"
    assert found.address == b"x@y"
    assert found.header == [b"X-A: 1\n\t2", b"X-B: 3"]
    assert found.changed == {b"a": b"b=c", b"d": b"", b"e": None}
    assert found.printed == [b"250 hello"]
    assert found.later == [(b"M", b"450 m"), (b"R", b"550 r"), (b"D", b"554 d")]
    assert found.decision is None


@pytest.mark.parametrize("text", [b"", b"\n\n", b"\r\n"])
def test_nothing(text: bytes) -> None:
    found = sppanswer.parse(text)
    assert (found.end, found.decision, found.header) == (b"", None, [])


@pytest.mark.parametrize("letter", [b"A", b"N", b"O", b"D"])
@pytest.mark.parametrize("end", [b"\n", b"", b"\r\n", b" \n"])
def test_commands_without_text(letter: bytes, end: bytes) -> None:
    assert sppanswer.parse(letter + end).end == letter


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        (b"E550 no", b"550 no (#5.7.1)"),
        (b"E450 not now", b"450 not now (#4.7.1)"),
        (b"E550", b"550 refused (#5.7.1)"),
        (b"E550-x", b"550 x (#5.7.1)"),
        (b"E550 5.1.1 nobody", b"550 nobody (#5.1.1)"),
        (b"E450 5.1.1 nobody", b"450 nobody (#4.1.1)"),
        (b"E550 no (#5.1.2)", b"550 no (#5.1.2)"),
        (b"E550 a\tb\xff", b"550 a?b? (#5.7.1)"),
        (b"E421 go", b"drop 421 go (#4.7.1)"),
        (b"R550 go", b"drop 550 go (#5.7.1)"),
        (b"P550-a\nP550-b\nE551 c", b"551-a\r\n551-b\r\n551 c (#5.7.1)"),
        (b"Pa\nE451 c", b"451-a\r\n451 c (#4.7.1)"),
        (b"D", b"drop 421 closing the connection (#4.7.0)"),
        (b"P554 no\nD", b"drop 554 no (#5.7.1)"),
        (b"Pno code\nD", b"drop 421 closing the connection (#4.7.0)"),
    ],
)
def test_refusals(text: bytes, wire: bytes) -> None:
    decision = sppanswer.parse(text + b"\n").decision
    assert decision is not None
    assert say("rcpt", decision) == wire


@pytest.mark.parametrize(
    "text",
    [
        b"x",
        b"a",
        b"NO",
        b"Done",
        b"OK",
        b"Accepted",
        b"E",
        b"Eno code",
        b"E250 ok",
        b"E354 go ahead",
        b"E600 x",
        b"E55 x",
        b"E5500 x",
        b"R220 x",
        b"L",
        b"LM",
        b"LM250 ok",
        b"LX550 x",
        b"S",
        b"Sx",
        b"S=x",
        b"U",
        b"Ux=y",
        b"H",
        b"Hno header",
        b"H folded: first",
        b"HX: a\0b",
        b"HX: a\rb",
        b"HX: " + b"x" * 1000,
        b"N\0",
    ],
)
def test_what_makes_no_sense(text: bytes) -> None:
    with pytest.raises(ValueError) as error:
        sppanswer.parse(b"Sx=y\n" + text + b"\n")
    assert "b'" not in str(error.value), "it is for the log"


@given(
    st.binary(max_size=100)
    | st.lists(st.sampled_from(b"AONEDRPHCSUL\n 45X=:\0"), max_size=60).map(bytes)
)
def test_any_output(output: bytes) -> None:
    try:
        found = sppanswer.parse(output)
    except ValueError:
        return
    decision = found.decision
    assert (decision is not None) == (found.end in (b"E", b"R", b"D"))
    if decision is not None:
        assert decision.code >= 400
    for line in found.header:
        assert b"\0" not in line
        assert all(part[:1] in (b" ", b"\t") for part in line.split(b"\n")[1:])


# -- which plugins there are --------------------------------------------------


def test_sections_by_their_first_letter() -> None:
    lines = b"[connection] [helo] [mail] [rcpt] [data] [auth]".split()
    found = sppfile.parse([x for line in lines for x in (line, b"p" + line[1:2])], "f")
    assert {key: [p.name for p in value] for key, value in found.items()} == {
        "connection": [b"pc"],
        "helo": [b"ph"],
        "mail": [b"pm"],
        "rcpt": [b"pr"],
        "data": [b"pd"],
        "auth": [b"pa"],
    }
    assert sppfile.parse([b"[rubbish", b"[connected", b"x"], "f").keys() == {"connection"}


def test_programs_and_commands() -> None:
    (one, two) = sppfile.parse([b"[mail]", b"bin/x y", b":x y | z"], "f")["mail"]
    assert one.command == [b"bin/x y"]
    assert two.command == [b"/bin/sh", b"-c", b"x y | z"]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([b"x"], "no section"),
        ([b"[pass]", b"x"], "no section"),
        ([b"[mail]", b":"], "no program"),
        ([b"[mail]", b": "], "no program"),
        ([b"[mail]", b"x\0"], "NUL"),
        ([b"[mail]", *[b"x"] * 51], "more than 50"),
    ],
)
def test_wrong_files(lines: list[bytes], why: str) -> None:
    with pytest.raises(ControlError, match=why):
        sppfile.parse(lines, "f")


# -- plugins that run ---------------------------------------------------------

slow = pytest.mark.slow


def made(
    home: Home, text: str, section: str = "rcpt", log: Path | None = None, seconds: int = 60
) -> Any:
    """The filter with one plugin, a shell script of this text."""
    script(home.path, text, "plugin")
    home.control("smtpplugins", f"[{section}]", "./plugin")
    if log is None:
        return build("spp", home.path, SPPTIMEOUT=str(seconds))
    with open(log, "ab") as file:
        return build("spp", home.path, os.dup(file.fileno()), SPPTIMEOUT=str(seconds))


@pytest.fixture
def inside(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(home.path)
    return home


@slow
def test_it_has_no_descriptor_but_its_output(inside: Home, tmp_path: Path) -> None:
    """Nothing on 0, and nothing above 2, whatever we have open."""
    fd = os.open(inside.control_dir / "me", os.O_RDONLY)
    plugin = made(inside, 'cat; exec ls -l /proc/self/fd >"$HOME_OF/seen"')
    who = client(HOME_OF=str(tmp_path))
    assert rcpt(plugin, b"x@ok.example", who) == TAKEN
    os.close(fd)
    seen = (tmp_path / "seen").read_text()
    numbers = {line.split(" -> ")[0].split()[-1] for line in seen.splitlines() if " -> " in line}
    numbers -= left_to_us()
    assert numbers <= {"0", "1", "2", "3"}, "3 is the directory that ls reads"
    assert "control/me" not in seen


def left_to_us() -> set[str]:
    """Descriptors that who has started the tests has left open, as make does to its own."""
    found = set()
    for fd in range(3, 1024):
        with suppress(OSError):
            if os.get_inheritable(fd):
                found.add(str(fd))
    return found


@slow
@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("exec sleep 1000", "timeout"),
        ("sleep 1000 & wait", "timeout"),
        ("trap '' PIPE; yes A", "writes more than 65536 bytes"),
        ("head -c 10000000 /dev/zero", "writes more than 65536 bytes"),
        ("exec head -c 10000000 /dev/zero", "writes more than 65536 bytes"),
        ("kill -11 $$", "signal 11"),
        ("echo N; kill -9 $$", "signal 9"),
        ("exit 120", "exit 120"),
        ("head -c 100 /dev/zero", "writes a NUL"),
        ("echo HX; echo N", "writes what is no line of a header"),
        ("echo 'C'; echo N", "writes what is no address"),
        ("printf 'Ca\\tb\\n'", "writes what is no address"),
        ("printf 'C%0900d\\n' 1", "writes what is no address"),
        ("printf 'Sx=%065536d\\n' 1", "writes more than 65536 bytes"),
        ("printf 'Sx=%032768d\\n' 1", "variables of more than 32768 bytes"),
    ],
)
def test_faults(inside: Home, tmp_path: Path, text: str, result: str) -> None:
    log = tmp_path / "log"
    plugin = made(inside, text, log=log, seconds=1 if result == "timeout" else 60)
    assert rcpt(plugin, b"x@ok.example") == FAILURE
    (line,) = logged(log)
    assert line["result"] == result
    assert (line["program"], line["section"], line["to"]) == ("./plugin", "rcpt", "x@ok.example")


@slow
def test_what_runs_on_is_not_waited_for(inside: Home) -> None:
    """One that has forked, with its output open; it is ended by this test."""
    plugin = made(inside, 'sleep 1000 >&1 & echo "$!" >pid; echo E550 no')
    try:
        assert rcpt(plugin, b"x@ok.example") == b"550 no (#5.7.1)"
    finally:
        os.kill(int((inside.path / "pid").read_text()), 9)


@slow
def test_65536_bytes_are_not_too_much(inside: Home) -> None:
    plugin = made(inside, "head -c 65530 /dev/zero | tr '\\0' '\\n'; echo E550 x")
    assert rcpt(plugin, b"x@ok.example") == FAILURE
    plugin = made(inside, "head -c 65520 /dev/zero | tr '\\0' '\\n'; echo E550 x")
    assert rcpt(plugin, b"x@ok.example") == b"550 x (#5.7.1)"


@slow
def test_what_a_program_writes_is_read_whole(tmp_path: Path) -> None:
    path = script(tmp_path, "printf 'a\\0b\\n'; exit 3")
    answer = read([os.fsencode(path)], {b"PATH": b"/bin:/usr/bin"}, 60, 100)
    assert (answer.status, answer.text) == (3, b"a\0b\n")
    answer = read([b"/no/such"], {}, 5, 100)
    assert (answer.status, answer.how) == (None, "cannot be started: No such file or directory")


@slow
def test_failures_elsewhere_are_for_now(inside: Home) -> None:
    envelope = Envelope(b"a@b")
    envelope.recipients.append(b"x@ok.example")
    plugin = made(inside, "exit 120", "connection")
    assert say("connect", plugin.connect(client())) == b"421 qmail-spp failure (#4.3.0)"
    assert say("starttls", plugin.starttls(client())) == b"421 qmail-spp failure (#4.3.0)"
    plugin = made(inside, "exit 120", "helo")
    assert say("helo", plugin.helo(client(), b"c")) == b"450 qmail-spp failure (#4.3.0)"
    plugin = made(inside, "exit 120", "auth")
    assert say("auth", plugin.auth(client(), b"joe", b"PLAIN")) == b"454 qmail-spp failure (#4.3.0)"
    plugin = made(inside, "exit 120", "mail")
    assert say("mail", plugin.mail(client(), envelope)) == FAILURE
    plugin = made(inside, "exit 120", "data")
    assert say("data", plugin.data(client(), envelope)) == FAILURE


@slow
def test_hooks_that_nobody_wants_are_not_there(inside: Home) -> None:
    plugin = made(inside, "true")
    assert not hasattr(plugin, "connect") and not hasattr(plugin, "auth")
    one, other = (made(inside, "true", "connection") for _ in range(2))
    assert hasattr(one, "starttls")
    assert type(one) is type(other), "or a server would have one more after each HUP"


@slow
def test_the_suffix_of_relayclient(inside: Home) -> None:
    """Plugins see the recipient without it, and what they make of it has it."""
    plugin = made(inside, 'echo "Cnew+$SMTPRCPTTO"; test $SMTPRCPTHOSTSOK = 1 || echo E550 no')
    decision = plugin.rcpt(client(relay=b".x"), Envelope(b"a@b"), b"y@other.example.x")
    assert decision.recipient == b"new+y@other.example.x"
    decision = plugin.rcpt(client(relay=b".x"), Envelope(b"a@b"), b"y@other.example")
    assert decision.recipient == b"new+y@other.example", "relay, asked later, puts it there"


@slow
def test_the_suffix_of_relayclient_at_data(home: Home) -> None:
    home.control("smtpplugins", "[data]", ':echo "HX-To: $SMTPRCPTTO"')
    data = b"MAIL FROM:<a@b>\r\nRCPT TO:<y@other.example>\r\nDATA\r\n\r\n.\r\n"
    home.run(data, RELAYCLIENT=".x")
    (message,) = home.messages()
    assert message.recipients == [b"y@other.example.x"]
    assert message.body.startswith(b"X-To: y@other.example\n")


@slow
@pytest.mark.parametrize("value", ["$(touch seen)", "`touch seen`", "; touch seen", "a b\tc'\"\\"])
def test_values_are_only_values(inside: Home, value: str) -> None:
    plugin = made(inside, 'printf "S%s\\n" "seen=$SMTPHELOHOST"')
    who = client(helo=value.encode())
    assert rcpt(plugin, b"x@ok.example", who) == TAKEN
    assert who.notes["spp.variables"] == {b"seen": value.encode()}
    assert not (inside.path / "seen").exists()


@slow
def test_starttls_forgets(inside: Home) -> None:
    """A, and variables, were of the session in clear text: there [connection] is run again."""
    home = inside
    home.control(
        "smtpplugins",
        "[connection]",
        ":echo LR550 by connection",
        "[helo]",
        ':test "$SMTPHELOHOST" != off || echo A',
    )
    from tls_home import SERVER

    SERVER.save(home.control_dir / "servercert.pem")
    with home.talk() as talk:
        talk.line()
        talk.send(b"EHLO off\r\n")
        while talk.line()[3:4] == b"-":
            pass
        talk.send(b"STARTTLS\r\n")
        talk.line()
        talk.handshake()
        talk.send(b"HELO on\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n")
        run = talk.ended()
    assert run.lines[-2] == b"550 by connection (#5.7.1)"


# -- the warm server, --check, --explain ---------------------------------------


@slow
def test_check_and_explain(home: Home) -> None:
    home.control(
        "smtpplugins", "[rcpt]", ":echo E550 no", "plugins/missing", ":plugins/missing too", "x"
    )
    home.file("x", "true\n").chmod(0o644)
    lines = home.run(b"", "--check").out.decode().splitlines()
    assert [line for line in lines if line.startswith("wrong")] == [
        "wrong: control/smtpplugins: [rcpt] plugins/missing does not exist",
        "wrong: control/smtpplugins: [rcpt] :plugins/missing too does not exist",
        "wrong: control/smtpplugins: [rcpt] x is not executable",
    ]
    assert "ok: plugin at rcpt = :echo E550 no (it is not run by this check)" in lines
    home.control(
        "smtpplugins",
        "[rcpt]",
        ":x y",
        ': exec "x"',
        ":exec nowhere",
        ":echo 'E550",
        ":if",
        ":exit 0",
    )
    lines = home.run(b"", "--check").out.decode().splitlines()
    assert [line for line in lines if line.startswith("wrong")] == [
        "wrong: control/smtpplugins: [rcpt] :x y wants x, which the shell does not find in PATH",
        "wrong: control/smtpplugins: [rcpt] :exec nowhere wants nowhere, which the shell does not"
        " find in PATH",
        "wrong: control/smtpplugins: [rcpt] :echo 'E550 is no command for the shell: its syntax is"
        " wrong",
        "wrong: control/smtpplugins: [rcpt] :if is no command for the shell: its syntax is wrong",
    ]
    home.control("smtpplugins", "[rcpt]", ":echo E550 no")
    shown = home.run(b"", "--explain", "to=x@ok.example").out.decode()
    assert "spp" in shown and "550 no (#5.7.1)" in shown


@slow
def test_the_example_of_the_manual(home: Home) -> None:
    """The commands of man/examples/README.md, run as they are."""
    text = (ROOT / "man/examples/README.md").read_text()
    section = text.partition("## Plugins of qmail-spp\n")[2].partition("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    commands = "\n".join(lines).replace("/var/qmail", str(home.path))
    (home.path / "plugins").mkdir(exist_ok=True)
    subprocess.run(["sh", "-ec", commands], check=True)
    rcpts = b"".join(b"RCPT TO:<%b@ok.example>\r\n" % who for who in (b"sales", b"old", b"x"))
    run = home.run(
        b"HELO a\\nEb\r\nMAIL FROM:<a@b>\r\n" + rcpts + b"DATA\r\nA: b\r\n\r\n.\r\nQUIT\r\n"
    )
    assert run.codes == [220, 250, 250, 250, 550, 250, 354, 250, 221]
    assert b"550 has moved (#5.1.6)" in run.lines
    (message,) = home.messages()
    assert message.recipients == [b"joe@example.org", b"x@ok.example"]
    assert message.body == b"X-Helo: a\\nEb\nA: b\n\n"
