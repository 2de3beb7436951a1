"""For `qsmtpd --check`: could the programs that a session starts be started?

It looks at them as a file system does, as the user who runs the check, and
starts none of them.
"""

from __future__ import annotations

import os
import stat

from ..filters.sppfile import SHELL
from ..log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import PolicySettings, QueueSettings
    from ..config.settings import PluginSettings, Settings
    from .report import Report

#: The kernel reads so much of a file for its `#!` line.
_FIRST_LINE = 256  # bytes


def check_queue(report: Report, queue: QueueSettings, settings: Settings) -> None:
    """The queue program, and what those of our own need: a Maildir, or hubs."""
    name = os.fsdecode(queue.program)
    problem = why_not(name, settings)
    if problem is not None:
        report.wrong("queue program", f"{name} {problem}")
        return
    report.note("queue program", name, "it is not run by this check")
    if "qsmtpd-maildir" in names(name):
        home = os.fsdecode(settings.variable("QSMTPD_MAILDIR") or b"")
        if not home:
            report.wrong("QSMTPD_MAILDIR", f"is not set, and {name} needs it")
        elif (problem := _why_no_maildir(home)) is not None:
            report.wrong("QSMTPD_MAILDIR", problem)
        else:
            report.ok("QSMTPD_MAILDIR", home, "environment")
    if "qsmtpd-qmqpc" in names(name):
        from .hubs import check_hubs  # now: few have it

        check_hubs(report, settings, queue.timeout)


def takes_all(report: Report, settings: Settings, policy: PolicySettings) -> bool:
    """Does the filter qmqpqueue take each message, so that there is no queue program?"""
    for spec in policy.plugins:
        if spec.plugin == "qmqpqueue":
            from ..filters import qmqpqueue  # now: few have it

            own = settings.for_plugin(spec.name, spec.options, Log(2))
            if own.choice(qmqpqueue.FILE, qmqpqueue.VARIABLE, qmqpqueue.WORDS) == qmqpqueue.ON:
                if settings.is_set("QMAILQUEUE"):
                    what = "does nothing: qmqpqueue takes each message"
                    report.warn("QMAILQUEUE", what)
                report.note("queue program", "none", "qmqpqueue hands each message to a hub")
                return True
    return False


def check_others(report: Report, settings: Settings) -> None:
    """The programs that filters ask.  Raises ControlError."""
    for file, variable in ((None, "RCPTCHECK"), ("messagecheck", "MESSAGECHECK")):
        where, asked = settings.text(file, variable) or ("", b"")
        if asked:
            problem = why_not(os.fsdecode(asked), settings)
            if problem is not None:
                report.wrong(where, f"{os.fsdecode(asked)} {problem}")
        elif where not in ("", variable):  # an empty variable says so for some clients
            report.wrong(where, "has no program in its first line, so nobody is asked")
    for line in settings.lines("recipients") or ():
        head, bar, command = line.partition(b"|")
        if bar and b":" not in head and command.split() and not line.startswith(b"!"):
            name = os.fsdecode(command.split()[0])
            problem = why_not(name, settings, search=True)
            if problem is not None:
                report.wrong("control/recipients", f"{name} {problem}")


def check_plugins(report: Report, settings: PluginSettings) -> None:
    """The plugins of qmail-spp.  Raises ControlError."""
    from ..filters import spp

    where = spp.place(settings)
    found = spp.sections(settings)
    if not found and settings.variable(spp.OFF) is None:
        report.wrong(where, "names no plugin")
    for section, programs in found.items():
        for program in programs:
            line = os.fsdecode(program.name)
            problem = why_not(os.fsdecode(program.command[0]), settings)
            if problem is None and line.startswith(":"):
                problem = _why_not_by_shell(line[1:], settings)
            if problem is not None:
                report.wrong(where, f"[{section}] {line} {problem}")
            else:
                report.note(f"plugin at {section}", line, "it is not run by this check")


def _why_not_by_shell(command: str, settings: Settings) -> str | None:
    """The same of a command for the shell: its syntax, and its first word where that is plain."""
    if _shell(settings, "-n", "-c", command) != 0:  # of a command by whose status nobody knows
        return "is no command for the shell: its syntax is wrong"
    word, _, rest = command.strip(" \t").partition(" ")
    if word == "exec":
        word = rest.strip(" \t").partition(" ")[0]
    plain = word.isascii() and all(c.isalnum() or c in "/._-+" for c in word)
    if not plain or not word or word.startswith("-"):
        return None
    if "/" in word:
        return why_not(word, settings)
    if _shell(settings, "-c", 'command -v "$0"', word) != 0:
        return f"wants {word}, which the shell does not find in PATH"
    return None


def _shell(settings: Settings, *arguments: str) -> int:
    """The status of a shell, in the environment that a session's has; it says nothing."""
    import subprocess

    path = settings.variable("PATH")
    environ = {} if path is None else {"PATH": os.fsdecode(path)}
    nothing = subprocess.DEVNULL
    command = [os.fsdecode(SHELL), *arguments]
    return subprocess.call(command, env=environ, stdin=nothing, stdout=nothing, stderr=nothing)


def why_not(name: str, settings: Settings, search: bool = False) -> str | None:
    """Why this program cannot be started, or None.

    With `search`, one without a slash is looked for in PATH, as of a session.
    """
    path = found(name, settings) if search else name
    if path is None:
        return "is not to be found in PATH, or not executable"
    if not os.path.exists(path):
        return "does not exist"
    if not os.path.isfile(path) or not _may(path, os.X_OK):
        return "is not executable"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            start = os.read(fd, _FIRST_LINE)
        finally:
            os.close(fd)
    except OSError:
        # The kernel starts a program that its user cannot read, but what is to read a script
        # is then that user.  Of what has a set-user-ID bit we know that it is none.
        if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
            return None
        return "is not readable, so a script would not start: chmod +r"
    if not start.startswith(b"#!"):
        return "is a script without a #! line" if b"\0" not in start else None
    return _why_no_interpreter(start[2:].partition(b"\n")[0], settings)


def _why_no_interpreter(line: bytes, settings: Settings) -> str | None:
    """Why what stands behind `#!` cannot be started, or None."""
    if line.endswith(b"\r"):  # for the kernel it is part of the name
        return "has a CR at the end of its #! line: a script's lines end in LF alone"
    words = line.strip(b" \t").replace(b"\t", b" ").split(b" ", 1)
    interpreter = os.fsdecode(words[0])
    if not os.path.isfile(interpreter) or not _may(interpreter, os.X_OK):
        return f"wants {interpreter or 'an interpreter'}, which does not exist or is not executable"
    if os.path.basename(interpreter) != "env" or len(words) < 2:
        return None
    # All that follows is one argument for env, but for its option -S.
    name = os.fsdecode(words[1].strip(b" "))
    if name.startswith("-S"):
        name = name[2:].split()[0] if name[2:].split() else ""
    if name.startswith("-") or "=" in name or found(name, settings) is not None:
        return None
    return f"wants {name or 'an interpreter'}, which env does not find in PATH"


def found(name: str, settings: Settings) -> str | None:
    """A program by its path; without a slash it is looked for in PATH, as of a session."""
    if "/" in name:
        return name
    import shutil  # now: it loads what reads archives

    return shutil.which(name, path=os.fsdecode(settings.variable("PATH") or b""))


def names(path: str) -> tuple[str, str]:
    """What a program is called, and what that is a link to."""
    return os.path.basename(path), os.path.basename(os.path.realpath(path))


def _why_no_maildir(home: str) -> str | None:
    """Why nothing could be delivered there, or None.  A relative path is one of QMAILHOME."""
    above = os.path.dirname(home.rstrip("/")) or ("/" if home.startswith("/") else ".")
    if not os.path.lexists(home):
        if not os.path.isdir(above):
            return f"{home} cannot be made: {above} is no directory"
        if not _may(above, os.W_OK | os.X_OK):
            return f"{home} cannot be made: {above} is not writable"
        return None
    for part in (home, *(os.path.join(home, name) for name in ("tmp", "new", "cur"))):
        if os.path.lexists(part):
            if not os.path.isdir(part):
                return f"{part} is no directory"
            if not _may(part, os.W_OK | os.X_OK):
                return f"{part} is not writable"
    return None


def _may(path: str, mode: int) -> bool:
    """Is this user, as whom programs are started, allowed to?"""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
