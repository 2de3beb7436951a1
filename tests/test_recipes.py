"""man/examples/filters/README.md: each configuration is run as it stands there, but for folders."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import PATIENCE
from harness import ROOT, Home, needs, wait_for
from milterprograms import key
from scanners import EICAR, GTUBE
from test_scanners import TAKEN, mail, send, stored, verdicts
from tools import UNPACKED

pytestmark = pytest.mark.interop

PAGE = (ROOT / "man/examples/filters/README.md").read_text()
#: What stands for these folders is below one of the test's own.
FOLDERS = re.compile(r"/(?:etc|run|var/lib|usr/local/libexec)/")


def blocks(section: str) -> list[list[str]]:
    """The blocks of a section, each as its lines; an empty line ends one."""
    (text,) = re.findall(rf"(?ms)^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE)
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("    "):
            found[-1].append(line[4:])
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


class Recipe:
    """The configuration of some sections, in a folder; a context manager, within which it runs."""

    def __init__(self, home: Home, *sections: str) -> None:
        self.home = home
        # Not below the folders of pytest, whose paths are too long for a socket's.
        self.folder = Path(tempfile.mkdtemp(prefix="recipe-"))
        self.folder.chmod(0o755)
        for name in ("etc", "run/filters", "var/lib/clamav", "var/lib/postgrey"):
            (self.folder / name).mkdir(parents=True)
            (self.folder / name).chmod(0o777)
        self.commands: list[list[str]] = []
        self.sockets: list[Path] = []
        self._running: list[subprocess.Popen[bytes]] = []
        for section in sections:
            for block in blocks(section):
                self._take(block)

    def here(self, text: str) -> str:
        """The same with the folders of this one."""
        return FOLDERS.sub(lambda found: f"{self.folder}{found[0]}", text)

    def file(self, path: str, text: str) -> Path:
        """Write a file that has this path on the page."""
        place = Path(self.here(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o755 if text.startswith("#!") else 0o644)
        return place

    def _take(self, block: list[str]) -> None:
        first, *rest = block
        if first.startswith("$ "):
            self.commands += [shlex.split(self.here(line[2:])) for line in block]
            return
        name = first.removeprefix("# ")
        text = self.here("".join(line + "\n" for line in rest))
        if not name.startswith("control/"):
            self.file(name, text)
            return
        name = name.removeprefix("control/")
        self.home.control(name, text)
        self.sockets += [Path(path) for path in re.findall(r"(?m)^unix:(\S+)", text)]

    def start(self) -> None:
        """Start all, and wait until each answers --check."""
        for command in self.commands:
            program = needs(command[0])
            if os.geteuid() != 0 and any(word.startswith("--user") for word in command):
                pytest.skip("only root can become another user")
            words = [needs(word) if word == "policyd-spf" else word for word in command[1:]]
            with (self.folder / "output").open("ab") as output:
                if "--daemon" in words:
                    subprocess.run([program, *words], stdout=output, stderr=output, check=True)
                    continue
                self._running.append(
                    subprocess.Popen(
                        [program, *words],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
        wait_for(self._answers)

    def _answers(self) -> bool:
        for process in self._running:
            assert process.poll() is None, (self.folder / "output").read_text()
        return self.home.run(b"", "--check").status == 0

    def __enter__(self) -> Recipe:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            # With those that it has started: it was made the leader of their group.
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._running:
            process.wait(PATIENCE)
        for file in (self.folder / "run/filters").glob("postfwd.pid"):
            pid = int(file.read_text())
            os.kill(pid, signal.SIGKILL)  # by TERM it waits for those that are connected
            wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
        shutil.rmtree(self.folder)


@pytest.fixture
def clamav(home: Home) -> Iterator[Recipe]:
    """ClamAV, whose only signature is EICAR."""
    recipe = Recipe(home, "ClamAV")
    recipe.file("/var/lib/clamav/test.ndb", f"Eicar-Test:0:*:{EICAR.hex()}\n")
    with recipe:
        yield recipe


def spamassassin(home: Home, *more: str) -> Recipe:
    recipe = Recipe(home, "SpamAssassin", *more)
    rules = (
        "use_bayes 0\nutil_rb_tld com org net example\n"
        # Of the rules that a package has.
        "add_header spam Flag _YESNOCAPS_\nadd_header all Level _STARS(*)_\n"
        'add_header all Status "_YESNO_, score=_SCORE_ required=_REQD_ tests=_TESTS_"\n'
        r"body GTUBE /XJS\*C4JDBQADN1\.NSBN3\*2IDNEN\*GTUBE-STANDARD/"
        "\nscore GTUBE 1000\n"
    )
    recipe.file("/etc/spamassassin/test.cf", rules)
    # Else it would look for rules where a package has them, and ask the DNS.
    (command,) = [command for command in recipe.commands if command[0] == "spamd"]
    command += [f"--configpath={recipe.folder}/etc/spamassassin", "--local"]
    return recipe


def rspamd(home: Home, section: str) -> Recipe:
    """With the configuration of the package, but for what would leave this folder, or ask."""
    recipe = Recipe(home, section)
    unpacked = UNPACKED / "rspamd"
    root = unpacked if unpacked.exists() else Path("/")
    own = recipe.folder / "etc/rspamd"
    written = {path: path.read_text() for path in own.rglob("*") if path.is_file()}
    shutil.copytree(root / "etc/rspamd", own, dirs_exist_ok=True)
    for path, text in written.items():
        path.write_text(text)
    workers = {"normal", "controller", "proxy", "fuzzy"}
    for worker in workers - {path.stem.removeprefix("worker-") for path in written}:
        recipe.file(f"/etc/rspamd/local.d/worker-{worker}.inc", "enabled = false;\n")
    recipe.file(
        "/etc/rspamd/local.d/options.inc",
        'dns { nameserver = "127.0.0.1:1"; timeout = 0.1s; retransmits = 1; }\n'
        f'url_tld = "{own}/tld"; filters = "";\n',
    )
    recipe.file("/etc/rspamd/tld", "com\norg\nnet\nexample\n")
    recipe.file("/etc/rspamd/local.d/logging.inc", 'type = "console"; level = "error";\n')
    for module in ("rbl", "surbl", "fuzzy_check", "phishing", "dkim", "spf", "dmarc", "arc"):
        recipe.file(f"/etc/rspamd/local.d/{module}.conf", "enabled = false;\n")
    share = root / "usr/share/rspamd"
    state = recipe.folder / "var/lib"
    for name, path in {
        "CONFDIR": own,
        "LOCAL_CONFDIR": own,
        "DBDIR": state,
        "RUNDIR": state,
        "LOGDIR": state,
        "SHAREDIR": share,
        "RULESDIR": share / "rules",
        "LUALIBDIR": share / "lualib",
        "PLUGINSDIR": share / "plugins",
    }.items():
        recipe.commands[0] += ["--var", f"{name}={path}"]
    return recipe


def test_clamav(home: Home, clamav: Recipe) -> None:
    run = send(home, mail(body=EICAR), mail())
    virus = b"554 message has a virus: Eicar-Test.UNOFFICIAL (#5.7.1)"
    assert verdicts(run) == [virus, TAKEN]
    large = mail(body=b"\n".join([b"x" * 1000] * 50_000))
    assert verdicts(send(home, large)) == [b"552 message is too large to be checked (#5.3.4)"]


def test_clamav_milter(home: Home, clamav: Recipe) -> None:
    (home.control_dir / "clamd").unlink()
    milter = Recipe(home, "clamav-milter")
    configuration = milter.folder / "etc/clamav/clamav-milter.conf"
    clamd = f"ClamdSocket unix:{clamav.folder}/run/filters/clamd"
    configuration.write_text(re.sub("(?m)^ClamdSocket .*$", clamd, configuration.read_text()))
    with milter:
        assert [line[:3] for line in verdicts(send(home, mail(body=EICAR), mail()))] == [
            b"550",
            b"250",
        ]
    assert b"X-Virus-Status: Clean" in stored(home)[0]


def test_spamassassin(home: Home) -> None:
    with spamassassin(home):
        run = send(home, mail(body=GTUBE), mail())
    assert verdicts(run) == [b"554 message is spam, with a score of 1000.0 (#5.7.1)", TAKEN]
    assert stored(home)[0].startswith(b"X-Spam-Status: No, score=0.0 required=5.0\n")


def test_spamass_milter(home: Home) -> None:
    with spamassassin(home, "spamass-milter"):
        (home.control_dir / "spamd").unlink()
        run = send(home, mail(body=GTUBE), mail())
    assert [line[:3] for line in verdicts(run)] == [b"550", b"250"]


def test_rspamd(home: Home) -> None:
    with rspamd(home, "rspamd"):
        run = send(home, mail(body=GTUBE), mail())
    assert verdicts(run) == [b"554 Gtube pattern (#5.7.1)", TAKEN]
    assert b"X-Spamd-Result: default: False" in stored(home)[0]


def test_rspamd_as_a_milter(home: Home) -> None:
    with rspamd(home, "rspamd as a milter"):
        run = send(home, mail(body=GTUBE), mail())
    assert [line[:3] for line in verdicts(run)] == [b"554", b"250"]


def test_opendkim_and_opendmarc(home: Home) -> None:
    recipe = Recipe(home, "OpenDKIM and OpenDMARC")
    recipe.file("/etc/opendkim/s1.private", key()[0]).chmod(0o600)
    with (recipe.folder / "etc/opendkim.conf").open("a") as configuration:
        configuration.write("RequireSafeKeys no\n")  # anybody may write into /tmp
    message = (
        b"From: joe@example.org\nDate: Thu, 26 Nov 2026 23:57:10 +0000\n"
        b"Message-ID: <1@example.org>\nSubject: x\n\nhello\n"
    )
    with recipe:
        assert verdicts(send(home, message)) == [TAKEN]
        assert b"check: warning" not in home.run(b"", "--check").out
    assert b"DKIM-Signature: v=1; " in stored(home)[0] and b"d=example.org" in stored(home)[0]


def test_postgrey(home: Home) -> None:
    recipe = Recipe(home, "postgrey")
    # The user of the package, and the lists of an installed one.
    recipe.commands[0] += [f"--user={os.environ.get('USER', 'root')}", "--group=root"]
    recipe.commands[0] += [f"--whitelist-{who}=/dev/null" for who in ("clients", "recipients")]
    commands = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n"
    with recipe:
        assert home.run(commands).codes == [220, 250, 450, 221]
        assert home.run(commands, IMMUNE="1").codes == [220, 250, 250, 221]


def test_postfwd(home: Home) -> None:
    rcpts = b"".join(b"RCPT TO:<x%d@ok.example>\r\n" % number for number in range(51))
    with Recipe(home, "postfwd"):
        run = home.run(b"HELO x\r\nMAIL FROM:<a@b.example>\r\n" + rcpts + b"QUIT\r\n")
        bad = home.run(b"HELO bad.example\r\nMAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n")
    assert run.lines[3:53] == [b"250 ok"] * 50
    assert run.lines[53] == b"450 too many recipients, try again later (#4.7.1)"
    assert bad.lines[3] == b"554 we know you (#5.7.1)"


def test_policyd_spf(home: Home) -> None:
    """Of a client for whom it asks nobody."""
    with Recipe(home, "policyd-spf"):
        commands = b"HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n"
        assert home.run(commands, TCPREMOTEIP="127.0.0.1").codes == [220, 250, 250, 250, 221]


def test_qmail_spp(home: Home) -> None:
    with Recipe(home, "qmail-spp"):
        run = home.run(b"MAIL FROM:<a@bad.example>\r\nMAIL FROM:<a@good.example>\r\nQUIT\r\n")
    no = b"550 we do not want mail from there (#5.7.1)"
    assert run.lines[1:3] == [no, b"250 ok"]


def test_a_program_for_each_message(home: Home) -> None:
    part = (
        b"Content-Type: application/octet-stream;\n name=x.EXE\n"
        b'Content-Disposition: attachment; filename="x.exe"\n'
    )
    forged = mail(head=b"X-Attachments: none\n")
    with Recipe(home, "A program for each message"):
        run = send(home, mail(body=b"--x\n" + part), forged, MESSAGECHECKHEADERS="X-Attachments")
    assert verdicts(run) == [b"554 no programs by mail, please (#5.7.1)", TAKEN]
    assert stored(home) == [b"X-Attachments: looked at\n" + mail()]


def test_all_are_run() -> None:
    """No section but has a test here."""
    sections = re.findall(r"(?m)^## (.*)$", PAGE)
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for section in sections:
        assert re.sub(r"\W+", "_", section.lower()) in tested, section
