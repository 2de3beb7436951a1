"""Each way to install: the programs start, whoever may not is told why, and all goes away again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from child import Command
from harness import BIN, ROOT, Home

from qsmtpd import start

PACKAGE = ROOT / "qsmtpd"
EXAMPLES = ROOT / "man/examples"
NOBODY = 65534


def launcher(python: str, folder: str, *form: str) -> str:
    """What bin/launcher prints for qsmtpd."""
    command: Command = [ROOT / "bin/launcher", python, folder, ROOT / "bin/qsmtpd", *form]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("python", "folder"),
    [
        ("/a b/python3", "/c"),
        ("/a/it's/python3", "/c"),
        ("/a/python3", '/c"d'),
        (f"/{'a' * 121}", "/c"),
    ],
)
def test_a_line_that_the_kernel_would_not_take(tmp_path: Path, python: str, folder: str) -> None:
    """A shell script then starts the same Python with the same words."""
    assert launcher(f"/{'a' * 120}", "/c").startswith(f"#!/{'a' * 120} -IS\nimport sys\n")
    path = executable(tmp_path / python.strip("/"), '#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
    text = launcher(str(path), folder)
    assert text.startswith("#!/bin/sh\n")
    program = executable(tmp_path / "program", text)
    done = subprocess.run([program, "a  b", "*"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        *(str(path), "-IS", f"{folder}/qsmtpd/start/__main__.py"),
        *("qsmtpd.main", "a  b", "*"),
    ]


@pytest.mark.parametrize("trouble", ["no right", "no file"])
@pytest.mark.parametrize("way", ["as pip has it", "as make install has it", "by a link"])
def test_a_python_that_cannot_be_run(tmp_path: Path, way: str, trouble: str) -> None:
    """It is said so; no other one is taken, which would know other packages."""
    python = tmp_path / "bin/python3"
    if way == "as make install has it":
        text = launcher(str(python), str(ROOT), "sh")
    else:
        text = (ROOT / "bin/qsmtpd").read_text()
    program = executable(tmp_path / "bin/qsmtpd", text)
    if trouble == "no right":
        python.write_text("#!/bin/sh\necho started\n")
    else:
        python.symlink_to("another")
    if way == "by a link":
        program = tmp_path / "qsmtpd"
        program.symlink_to("bin/qsmtpd")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (111, "")
    assert done.stderr.startswith("qsmtpd: ") and len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("/bin/python3 is missing, or not for this user to run\n")


def make(target: str, to: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    """Run make for a PREFIX."""
    command: Command = ["make", "-s", "-C", ROOT, target, f"PREFIX={to}", "DESTDIR=", *variables]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def install(way: str, to: Path) -> tuple[Path, Path]:
    """(the program, the folder of the package), as this way of installing makes them."""
    if way == "make":
        # The checkout itself is in use, so another one that looks the same.
        (to / ".venv/bin").mkdir(parents=True)
        shutil.copy(BIN / "python3", to / ".venv/bin", follow_symlinks=False)
        shutil.copy(BIN.parent / "pyvenv.cfg", to / ".venv")
        shutil.copytree(PACKAGE, to / "qsmtpd")
        text = launcher(f"{to}/.venv/bin/python3", str(to))
        return executable(to / ".venv/bin/qsmtpd", text), to / "qsmtpd"
    if way == "make install":
        done = make("install", to, f"PYTHON={sys.executable}")
        assert done.returncode == 0, done.stderr
        return to / "bin/qsmtpd", to / "lib/qsmtpd/qsmtpd"
    source = copy_of_source(to.with_name("source"))
    subprocess.run([sys.executable, "-m", "venv", str(to)], check=True)
    pip: Command = [to / "bin/pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    [package] = to.glob("lib/python3*/site-packages/qsmtpd")
    return to / "bin/qsmtpd", package


def copy_of_source(to: Path) -> Path:
    """What a checkout has, without what is made in it."""
    made = shutil.ignore_patterns(
        *("__pycache__", "*.egg-info", ".git", ".venv*", ".demo", "build", ".hypothesis")
    )
    shutil.copytree(ROOT, to, ignore=made, symlinks=True)
    return to


@pytest.mark.slow
@pytest.mark.timeout(600)  # pip fetches setuptools
@pytest.mark.parametrize("way", ["make", "make install", "pip install"])
def test_each_installation_starts_python_isolated(way: str, home: Home, tmp_path: Path) -> None:
    program, package = install(way, tmp_path / "to")
    if way != "make":  # in a checkout somebody may just have edited a source
        finder = start.Finder(f"{package.parent}/")
        for path in package.rglob("*.py"):
            name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
            found = finder.find_spec(name.removesuffix(".__init__"), None)
            assert found is not None, f"no bytecode of {name}"
    link = tmp_path / "qmail-smtpd"
    link.symlink_to(program)
    session = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n"
    for path in (program, link):
        served = subprocess.run(
            [path], input=session, capture_output=True, env=home.environ, check=True
        )
        assert b"354 go ahead" in served.stdout
    assert len(home.messages()) == 2
    # What the launcher gives the interpreter, the interpreter itself says.
    said = "import sys; print(sys.flags, sys.argv[-2:]); launch = lambda *arguments: None"
    (package / "start/__init__.py").write_text(said)
    for path in (program, link):
        done = subprocess.run([path, "argument"], capture_output=True, text=True, check=True)
        assert "isolated=1" in done.stdout
        assert "no_site=1" in done.stdout
        assert "'argument']" in done.stdout


@pytest.mark.slow
def test_an_edited_source_counts_at_once(tmp_path: Path) -> None:
    program, package = install("make install", tmp_path / "to")
    text = (package / "main.py").read_text()
    edited = text.replace('f"{program} ', 'f"another ')
    assert edited != text
    (package / "main.py").write_text(edited)
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("another ")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.slow
def test_install_over_an_older_version_and_uninstall(tmp_path: Path) -> None:
    """Everybody can read what is there, whatever the umask was; and only that goes away."""
    to = tmp_path / "a prefix"
    others = {"bin/other", "lib/other", "share/man/man8/other.8", "share/doc/other"}
    for name in others | {"lib/qsmtpd/qsmtpd/of_an_older_version.py"}:
        executable(to / name, "")
    before = os.umask(0o077)
    try:
        _, package = install("make install", to)
    finally:
        os.umask(before)
    assert not (package / "of_an_older_version.py").exists()
    # One of a folder above, tmp_path, is ours alone.
    made = [path for path in to.rglob("*") if not path.is_symlink()]
    assert [path for path in made if path.stat().st_mode & 0o044 != 0o044] == []
    page = (to / "share/man/man8/qsmtpd.8").read_text()
    assert f"{to}/share/doc/qsmtpd/examples" in page and "/usr/local/" not in page
    examples = to / "share/doc/qsmtpd/examples"
    assert files(examples) == files(EXAMPLES)
    for name in files(EXAMPLES):
        text = (EXAMPLES / name).read_text().replace("/usr/local/bin/", f"{to}/bin/")
        assert (examples / name).read_text() == text
        assert os.access(examples / name, os.X_OK) == os.access(EXAMPLES / name, os.X_OK)
    assert make("uninstall", to).returncode == 0
    assert files(to) == others
    assert not (to / "lib/qsmtpd").exists()
    assert make("uninstall", to).returncode == 0


@pytest.mark.parametrize("target", ["install", "uninstall"])
def test_a_relative_prefix(target: str) -> None:
    """Nothing is done: programs with it in them would work from one folder alone."""
    done = subprocess.run(
        ["make", "-s", "-C", ROOT, target, "PREFIX=relprefix", "DESTDIR="],
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"make {target}: PREFIX=relprefix does not begin with a /"
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, said)
    assert not (ROOT / "relprefix").exists()


@pytest.mark.parametrize("target", ["install", "uninstall"])
def test_no_permission(target: str) -> None:
    """A plain sentence, before anything is done."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's folders are ours alone
        to = Path(folder)
        shutil.copy(ROOT / "Makefile", to)
        (to / "lib/qsmtpd").mkdir(parents=True)
        for path in (to / "lib/qsmtpd", to / "lib", to):
            path.chmod(0o555)
        done = subprocess.run(
            ["make", "-s", "-C", folder, target, f"PREFIX={folder}", "DESTDIR="],
            user=NOBODY if os.geteuid() == 0 else None,
            capture_output=True,
            text=True,
            check=False,
        )
        to.chmod(0o755)
    where = f"{folder}/{'bin' if target == 'install' else 'lib/qsmtpd'}"
    said = f"make {target}: cannot write to {where}: run it as root, or with another PREFIX="
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, said)


@pytest.mark.slow
def test_a_python_of_ours_alone(tmp_path: Path) -> None:
    """The service's user could not run it: make install says so, and so will the programs."""
    private = tmp_path / "private"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", private], check=True)
    private.chmod(0o700)
    python = private / "bin/python3"
    done = make("install", tmp_path / "to", f"PYTHON={python}")
    assert f"warning: other users cannot run {python}: choose another" in done.stderr
    program = tmp_path / "to/bin/qsmtpd"
    assert subprocess.run([program, "--version"], check=True, capture_output=True).stdout
    python.unlink()
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (111, "")
    assert done.stderr == f"qsmtpd: {python} is missing, or not for this user to run\n"


@pytest.mark.slow
def test_the_source_distribution_has_everything(tmp_path: Path) -> None:
    """What builds and tests a checkout does so from there."""
    source = copy_of_source(tmp_path / "source")
    everything = files(source)
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=source, capture_output=True, check=True
    )
    (archive,) = tmp_path.glob("qsmtpd-*.tar.gz")
    with tarfile.open(archive) as tar:
        members = {member.name.partition("/")[2]: member for member in tar if member.isfile()}
    assert everything - members.keys() == set()
    for name in everything:
        assert bool(members[name].mode & 0o100) == os.access(source / name, os.X_OK), name
