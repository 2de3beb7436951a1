"""starttls-probe as a program: its options, its output, its exit status."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from client import PATIENCE
from harness import wait_for
from probe_clients import Client
from probe_clients import Faults as ClientFaults
from probe_servers import PASSWORD, USER, Faults, serving

from qsmtpd.probe import program
from qsmtpd.probe.arguments import address, listening
from qsmtpd.probe.check import Finding, Rating, Result, exit_status
from qsmtpd.probe.checks import CHECKS
from qsmtpd.probe.evidence import Evidence, printable
from qsmtpd.probe.main import main as start
from qsmtpd.probe.report import Text

pytestmark = pytest.mark.slow

PROGRAM = str(Path(__file__).parent.parent / "bin" / "starttls-probe")
FAST = ("--rate", "1000", "--timeout", "60")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # no terminal to ask for a password
    )


def test_safe() -> None:
    with serving(Faults()) as server:
        done = run(*FAST, f"127.0.0.1:{server.port}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No message is sent." in done.stdout
    assert done.stdout.endswith("21 safe\n")
    assert "\x1b" not in done.stdout  # no terminal, no colour
    assert done.stderr == ""


def test_vulnerable_shows_its_evidence() -> None:
    with serving(Faults(greets_again=True)) as server:
        done = run(*FAST, "--check", "reply-offset", f"127.0.0.1:{server.port}")
    assert done.returncode == 1
    assert "vulnerable      reply-offset: 1 too many after a clean handshake" in done.stdout


def test_evidence_of_an_injection() -> None:
    faults = Faults(survivors=lambda reads: b"EHLO injected.invalid\r\nNOOP\r\n" if reads else b"")
    with serving(faults) as server:
        done = run(*FAST, "--check", "inject-segment", f"127.0.0.1:{server.port}")
    assert done.returncode == 1
    sent = "probe clear STARTTLS\\r\\nEHLO injected.invalid\\r\\nNOOP\\r\\n"
    received = "peer  tls   250-faulty.invalid\\r\\n"
    assert sent in done.stdout
    assert done.stdout.index(received) > done.stdout.index(sent)


def test_not_offered_could_not_test() -> None:
    with serving(Faults(starttls=False)) as server:
        done = run(*FAST, f"127.0.0.1:{server.port}")
    assert done.returncode == 2
    # One reason for all, once.
    reason = (
        "could not test  like starttls: it does not offer STARTTLS:\n    inject-segment, inject-"
    )
    assert reason in done.stdout
    assert done.stdout.count("like starttls") == 1
    assert "safe            auth-in-clear" in done.stdout


def test_json() -> None:
    with serving(Faults(announces_again=True)) as server:
        done = run(*FAST, "--json", f"127.0.0.1:{server.port}")
    assert done.returncode == 0  # odd changes nothing
    report = json.loads(done.stdout)
    assert report["mode"] == "server"
    assert report["port"] == server.port
    assert report["exit"] == 0
    verdicts = {result["name"]: result["verdict"] for result in report["results"]}
    assert verdicts["starttls-again"] == "odd"
    assert verdicts["inject-segment"] == "safe"
    evidence = report["results"][1]["evidence"]
    assert {"who": "probe", "layer": "tls", "bytes": "NOOP\\r\\n"} in evidence


def test_lmtp() -> None:
    with serving(Faults()) as server:
        done = run(*FAST, "-v", "--lmtp", f"127.0.0.1:{server.port}")
    assert done.returncode == 0
    assert "LHLO [127.0.0.1]" in done.stdout
    assert not re.search(r"probe +(clear|tls) .*EHLO", done.stdout)


def test_the_password_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(PASSWORD + b"\n")
    with serving(Faults(takes_auth_in_clear=True, keeps=frozenset({"auth"}))) as server:
        options = ("--user", USER.decode(), "--password-file", str(file))
        done = run(*FAST, *options, "--check", "state-auth", f"127.0.0.1:{server.port}")
    assert done.returncode == 1
    assert "AUTH PLAIN (secret)" in done.stdout
    assert "The password is sent in clear" in " ".join(done.stdout.split())


def test_smuggling_sends_only_to_the_recipient() -> None:
    with serving(Faults()) as server:
        done = run(*FAST, "--smuggling", "me@example.invalid", f"127.0.0.1:{server.port}")
        assert "Messages will be sent to me@example.invalid." in done.stdout
        assert len(server.messages) == 13
        assert all(b"\r\nTo: <me@example.invalid>\r\n" in message for message in server.messages)
    assert done.returncode == 0


def test_no_message_unless_asked() -> None:
    faults = Faults(survivors=lambda reads: b"".join(reads).partition(b"\r\n")[2] if reads else b"")
    with serving(faults) as server:
        done = run(*FAST, f"127.0.0.1:{server.port}")
        assert server.messages == []
    assert done.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--listen", "2525", "host"),
        ("host:port",),
        ("host:70000",),
        ("--check", "nonsense", "host"),
        ("--scenario", "nonsense", "--listen", "0"),
        ("--smuggling", "a\r\nRSET", "host"),
        ("--timeout", "0", "host"),
        ("--timeout", "1e9", "host"),
        ("--user", "me", "--password-file", "/nonexistent", "host"),
        ("--listen", "192.0.2.1:0"),
        ("--listen", "0", "--ca", "/nonexistent/file"),
        ("::1:2506",),
        ("--smuggling", "", "host"),
        ("--user", "", "host"),
        ("--user", "me", "host"),
        ("--user", "me", "--password-file", "/dev/null", "host"),
        ("--check", "state-auth", "host"),
        ("--check", "handshake-stall", "host"),
        ("--check", "smuggle-lf-dot-lf", "host"),
        ("--password-file", "/dev/null", "host"),
        ("--slow-limit", "5", "host"),
        *(
            ("--listen", "0", *options)
            for options in (
                ("--check", "starttls"),
                ("--lmtp",),
                ("--rate=2",),
                ("--helo", "x"),
                ("--user", "x"),
                ("--slow",),
                ("--smuggling", "x"),
                ("--from", "x"),
            )
        ),
        *(
            ("host", *options)
            for options in (
                ("--scenario", "sound"),
                ("--connections", "1"),
                ("--name", "x"),
                ("--ca", "x"),
                ("--strict",),
                ("--wait=3600",),
            )
        ),
    ],
)
def test_what_cannot_be_used(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "starttls-probe: error:" in done.stderr
    for word in ("Traceback", "Errno", "Warning"):
        assert word not in done.stderr


def test_what_fails_later_is_said_in_one_line() -> None:
    done = run("--listen", "192.0.2.1:0")
    reason = os.strerror(errno.EADDRNOTAVAIL)
    expected = f"starttls-probe: error: cannot listen on 192.0.2.1 port 0: {reason}\n"
    assert done.stderr == expected


def test_a_report_that_cannot_be_written() -> None:
    for options in ((), ("--json",)):
        with serving(Faults()) as server, open("/dev/full", "w") as full:
            done = subprocess.run(
                [PROGRAM, *FAST, *options, "--check", "starttls", f"127.0.0.1:{server.port}"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
            )
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        reason = os.strerror(errno.ENOSPC)
        assert last == f"starttls-probe: error: the report cannot be written: {reason}"
        assert "Traceback" not in done.stderr


def test_what_was_asked_for_has_to_be_tested(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"wrong\n")
    options = ("--user", USER.decode(), "--password-file", str(file))
    with serving(Faults(takes_auth_in_clear=True)) as server:
        done = run(*FAST, *options, "--check", "state-auth", f"127.0.0.1:{server.port}")
    assert "could not test  state-auth: it refuses this user and password" in done.stdout
    assert done.returncode == 2
    with serving(Faults(messages=0, starttls=False)) as server:
        done = run(*FAST, "--check", "starttls-twice", f"127.0.0.1:{server.port}")
    assert done.returncode == 2


def test_a_summary_claims_no_more_than_was_tested() -> None:
    untested = Result("x", "", False, Finding(Rating.UNTESTED, ""), Evidence())
    fine = Result("y", "", False, Finding(Rating.SAFE, ""), Evidence())
    out = io.StringIO()
    Text(out, False).summary([untested, fine], exit_status([untested, fine]))
    assert out.getvalue() == "\n1 could not test; 1 safe.  Nothing vulnerable was found.\n"
    assert exit_status([untested, fine], frozenset({"x"})) == 2


def test_the_announcement_is_true() -> None:
    with serving(Faults()) as server:
        options = ("--smuggling", "me@example.invalid", "--slow", "--user", "me")
        done = run(*FAST, *options, "--check", "starttls-twice", f"127.0.0.1:{server.port}")
    announced = done.stdout.partition("\nsafe")[0]
    assert "2 checks" in announced
    assert "No message is sent." in announced
    assert "password" not in announced
    assert "waits" not in announced
    assert done.returncode == 0


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_interrupted(options: tuple[str, ...]) -> None:
    """What is there is shown."""
    with serving(Faults()) as server:
        program = subprocess.Popen(
            [PROGRAM, *FAST, *options, "--slow", "--check", "handshake-stall"]
            + [f"127.0.0.1:{server.port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with program:
            wait_for(lambda: server.handshakes == 2)  # that of the control, and the stalled one
            program.send_signal(signal.SIGINT)
            output, errors = program.communicate(timeout=PATIENCE)
    assert program.returncode == 2
    assert errors.endswith("starttls-probe: interrupted\n")
    if options:
        report = json.loads(output)
        assert report["exit"] == 2
        assert [result["name"] for result in report["results"]] == ["starttls"]
    else:
        assert output.endswith("\n1 safe\n")


def test_a_link_of_another_name_is_the_program_it_leads_to(tmp_path: Path) -> None:
    """Step by step: where the programs are links themselves the last name is always qsmtpd."""
    copy = tmp_path / "bin" / "starttls-probe"
    copy.parent.mkdir()
    copy.write_bytes(Path(PROGRAM).read_bytes())
    copy.chmod(0o755)
    (tmp_path / "qsmtpd").symlink_to(Path(PROGRAM).parent.parent / "qsmtpd")
    (tmp_path / "relative").symlink_to("bin/starttls-probe")
    (tmp_path / "absolute").symlink_to(PROGRAM)
    (tmp_path / "twice").symlink_to("absolute")
    (tmp_path / "qmail-smtpd").symlink_to(Path(PROGRAM).with_name("qsmtpd"))
    expected = {
        **dict.fromkeys(("relative", "absolute", "twice"), "starttls-probe "),
        "qmail-smtpd": "qsmtpd ",
    }
    for name, version in expected.items():
        done = subprocess.run(
            [f"./{name}", "--version"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.stdout.startswith(version), (name, done.stderr)


@pytest.mark.parametrize("options", [(), ("--json",)], ids=str)
def test_an_error_of_its_own_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """What was found before is shown; the exit status is that of no verdict."""

    def broken(probe: object) -> Finding:
        raise AttributeError("no such \u00e4ttribute")

    (check,) = (check for check in CHECKS if check.name == "tls-versions")
    monkeypatch.setattr(program, "CHECKS", (replace(check, run=broken),))
    with serving(Faults()) as server, pytest.raises(SystemExit) as end:
        program.main([*options, *FAST, f"127.0.0.1:{server.port}"])
    out, errors = capsys.readouterr()
    assert end.value.code == 3
    (line,) = [line for line in errors.splitlines() if "error" in line]
    assert line.startswith("starttls-probe: error: tls-versions: an error of starttls-probe itself")
    assert "AttributeError: no such \\xe4ttribute (broken, line " in line
    assert "Traceback" not in errors
    if options:
        report = json.loads(out)
        assert (report["exit"], len(report["results"])) == (3, 1)
    else:
        assert out.endswith("\n1 safe\n")


def test_a_part_of_it_that_is_missing_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "qsmtpd.probe.program", None)
    with pytest.raises(SystemExit) as end:
        start(["localhost"])
    assert end.value.code == 3
    assert capsys.readouterr().err.startswith("starttls-probe: error: ")


def test_without_the_package_cryptography() -> None:
    """Only --listen, and a word about the certificate, need it."""
    code = (
        "import sys; sys.modules['cryptography'] = None;"
        "from qsmtpd.probe.program import main; main(sys.argv[1:])"
    )
    with serving(Faults()) as server:
        for arguments, status, said in (
            ((*FAST, f"127.0.0.1:{server.port}"), 0, "could not test  certificate: needs the"),
            (("--listen", "0"), 2, "--listen needs the Python package cryptography"),
        ):
            command = [sys.executable, "-c", code, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            assert done.returncode == status
            assert said in done.stdout + done.stderr


def test_list_names_everything() -> None:
    done = run("--list")
    assert done.returncode == 0
    for name in ("inject-segment", "smuggle-lf-dot-lf", "response-injection", "self-signed"):
        assert f"\n{name}\n" in done.stdout


def test_one_scenario_is_one_message() -> None:
    done = run("--listen", "0", "--scenario", "sound", "--wait", "0.01")
    assert "Let the client send 1 message, one after the other" not in done.stdout
    assert "Let the client send 1 message: sound." in " ".join(done.stdout.split())
    assert done.returncode == 2


def test_listen(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    program = subprocess.Popen(
        [PROGRAM, "--listen", "0", "--ca", str(ca), "--scenario", "sound"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        port = int(program.stdout.readline().split("port ")[1].split()[0])
        Client(port, str(ca), ClientFaults()).send()
        output = program.stdout.read()
    steps = "EHLO STARTTLS TLS EHLO AUTH MAIL RCPT DATA"
    assert f"safe            sound: it used TLS [{steps}]" in output
    assert program.returncode == 0


def test_colour_on_a_terminal() -> None:
    master, slave = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    output = b""
    with socket.socket() as nobody:  # it has a port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        program = subprocess.Popen([PROGRAM, address], stdout=slave, env=environ)
        os.close(slave)
        while True:
            try:
                output += os.read(master, 4096)
            except OSError:  # EIO: the program has ended
                break
        program.wait(PATIENCE)
    os.close(master)
    assert b"\x1b[36mcould not test\x1b[0m" in output
    assert b"starttls ..." in output  # progress


def test_who_closes_the_pipe_gets_no_traceback() -> None:
    with serving(Faults()) as server:
        command = f"'{PROGRAM}' --rate 1000 127.0.0.1:{server.port} | head -1"
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE
        )
    assert done.stderr == ""


def test_addresses() -> None:
    assert address("mx.example") == ("mx.example", None)
    assert address("mx.example:587") == ("mx.example", 587)
    assert address("::1") == ("::1", None)
    assert address("[::1]:25") == ("::1", 25)
    assert address("2001:db8::25") == ("2001:db8::25", None)
    assert listening("2525") == ("127.0.0.1", 2525)
    assert listening("[::1]:2525") == ("::1", 2525)


def test_printable_is_harmless() -> None:
    assert printable(b"a\x1b[31m\\\r\n\xff") == "a\\x1b[31m\\\\\\r\\n\\xff"
    assert printable(b"x" * 5000).endswith("... (5000 bytes)")


def test_nothing_of_the_server_is_imported() -> None:
    """The probe must not test qsmtpd with qsmtpd's own mistakes."""
    code = (
        "import sys, qsmtpd.probe.program;"
        "print(*sorted(m for m in sys.modules if m.startswith('qsmtpd.')"
        " and not m.startswith('qsmtpd.probe')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
