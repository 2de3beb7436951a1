"""For `qsmtpd --check`: can the store be used, and have the filters that use it what they need?"""

from __future__ import annotations

import os
import stat
from time import monotonic

from ..config.files import open_regular
from ..facts import ControlError
from ..filters import greylist, sendlimitsfile
from ..log import Log
from ..policy.store import GREYLIST, LOCAL, StoreSettings, Trouble, open_store, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import PolicySettings
    from ..config.settings import PluginSettings, Settings
    from .report import Report

#: The filters that remember something.
_USERS = ("clientlimit", "greylist", "sendlimits")
#: File systems of other machines (proc(5), mountinfo), on which SQLite's log cannot be shared.
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre")
MOUNTS = "/proc/self/mountinfo"
_REMOTE_LIKE = ("fuse.", "ocfs", "gfs")
#: What is waited for it (seconds).
WAIT = 2.0
#: A new store with its log and its index takes some 70 kB, and the log grows to 4 MB.
LEAST, GOOD = 128 * 1024, 8 * 1024 * 1024


def check_store(report: Report, settings: Settings, policy: PolicySettings) -> None:
    """Report on the store, where a filter remembers something.  Raises ControlError."""
    if not any(spec.plugin in _USERS for spec in policy.plugins):
        return
    wanted = StoreSettings(settings)
    where = place_of(settings)
    if wanted.server is None:
        _check_file(report, where, wanted)
        return
    from .sharedstore import check_shared

    check_shared(report, settings, wanted, wanted.server, where)
    if any(spec.plugin == "sendlimits" for spec in policy.plugins):
        with report.mildly():  # it is for while the server is away
            _check_file(report, place_of(settings, LOCAL, "STORELOCAL"), wanted.of_this_machine())


def _check_file(report: Report, where: str, wanted: StoreSettings) -> None:
    path = wanted.path
    folder = os.path.dirname(path)
    if not _is_folder(report, where, folder):
        return
    if os.path.lexists(path) and not _is_file(report, where, path):
        return
    if kind := _remote(folder):
        what = f"is on {kind}: SQLite wants a file system of this machine alone"
        report.wrong(where, f"{os.fsdecode(path)} {what}")
    _check_room(report, where, folder, os.path.lexists(path))
    try:
        store = open_store(wanted, read_only=True)
        store.deadline = monotonic() + WAIT
        store.look(GREYLIST, [b""], 0)
    except Trouble as error:
        report.wrong(where, f"{os.fsdecode(path)} {error.reason} ({error.word})")
        return
    state = "it can be read" if os.path.lexists(path) else "it is made by the first session"
    report.note("file of the store", os.fsdecode(path), state)


def _is_folder(report: Report, where: str, folder: bytes) -> bool:
    """Can this user make files in it?"""
    text = os.fsdecode(folder)
    try:
        found = os.stat(folder)
    except OSError as error:
        report.wrong(where, f"{text}: {error.strerror or 'cannot be used'}")
        return False
    if not stat.S_ISDIR(found.st_mode):
        report.wrong(where, f"{text} is no folder")
        return False
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        report.wrong(where, f"{text} cannot be written to by this user, who makes files in it")
        return False
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        report.warn(where, f"{text} can be written to by others, who can replace the store")
    user = os.geteuid()
    if user == 0 and found.st_uid == 0:
        what = "belongs to root: sessions of another user cannot make files in it"
        report.warn(where, f"{text} {what}; run this check as that one")
    return True


def _check_room(report: Report, where: str, folder: bytes, is_there: bool) -> None:
    """Is there room on the disk for what filters are to remember?"""
    try:
        found = os.statvfs(folder)
    except OSError:
        return  # it is not known
    room = found.f_bavail * found.f_frsize
    text = f"the file system of {os.fsdecode(folder)} has"
    if room < LEAST:
        report.wrong(where, f"{text} no room: {room} bytes")
    elif found.f_files and not found.f_favail and not is_there:
        report.wrong(where, f"{text} no room for another file")
    elif room < GOOD:
        report.warn(where, f"{text} little room: {room} bytes")


def _is_file(report: Report, where: str, path: bytes) -> bool:
    """What is there: has it the right owner, and the right mode?"""
    try:  # what is no file of ours to read is said in the words of control files
        fd = open_regular(os.fsdecode(path), path)
    except ControlError as error:
        report.wrong(where, f"{error.name} {error.reason}")
        return False
    if fd is None:
        return False
    os.close(fd)
    owner = os.stat(path).st_uid
    folder = os.path.dirname(path)
    if owner != os.stat(folder).st_uid:
        text = f"{os.fsdecode(path)} belongs to another user than its folder"
        report.warn(where, f"{text}: is it that of the sessions?")
    good = True
    for name in (path, path + b"-wal", path + b"-shm"):
        text = os.fsdecode(name)
        try:
            found = os.stat(name)
        except FileNotFoundError:
            continue
        if not os.access(name, os.R_OK | os.W_OK, effective_ids=True):
            report.wrong(where, f"{text} cannot be read and written by this user")
            good = False
        elif found.st_uid != owner:
            report.wrong(where, f"{text} belongs to another user than the store")
            good = False
        elif found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            report.warn(where, f"{text} has mode {mode:04o}: 0600 is enough")
    return good


def _remote(folder: bytes) -> str:
    """The type of its file system where that is of another machine, else ""."""
    path = os.path.realpath(folder)
    best, kind = b"", ""
    try:
        with open(MOUNTS, "rb") as table:
            for line in table:
                fields, _, rest = line.partition(b" - ")
                point = _unescaped(fields.split(b" ")[4])
                inside = point.rstrip(b"/") + b"/"
                if (path + b"/").startswith(inside) and len(point) >= len(best):
                    best, kind = point, os.fsdecode(rest.split(b" ")[0])
    except (OSError, IndexError):
        return ""
    return kind if kind in _REMOTE or kind.startswith(_REMOTE_LIKE) else ""


def _unescaped(text: bytes) -> bytes:
    """A path of mountinfo: blanks, tabs, LF and backslashes are octal there."""
    for code, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        text = text.replace(code, byte)
    return text


def check_greylist(report: Report, settings: Settings, policy: PolicySettings) -> None:
    """Report on whom greylist is to leave alone, and cannot know.  Raises ControlError."""
    order = [spec.plugin for spec in policy.plugins]
    for place, spec in enumerate(policy.plugins):
        if spec.plugin != "greylist":
            continue
        own: PluginSettings = settings.for_plugin(spec.name, spec.options, Log(2))
        skip = own.choice("greylistskip", "GREYLISTSKIP", greylist.SKIP)
        for name in ("spf", "fcrdns"):
            if skip not in (name, "either"):
                continue
            if name not in order:
                report.warn("greylistskip", f"is {skip}, and {name} is not on: nobody has it")
            elif name not in order[:place]:
                what = f"has {name} behind greylist, which then knows nothing of it"
                report.warn("control/plugins", what)


def check_sendlimits(report: Report, settings: Settings, policy: PolicySettings) -> None:
    """Report on limits that limit nobody.  Raises ControlError."""
    for spec in policy.plugins:
        if spec.plugin == "sendlimits":
            own = settings.for_plugin(spec.name, spec.options, Log(2))
            if not sendlimitsfile.Rules(own).limited:
                where = "control/" + own.list_file(sendlimitsfile.FILE)
                report.wrong(where, "has no limit, so everybody sends as much as he wants")
