"""A plugin that does something wrong at one stage: `misbehave at=STAGE how=WHAT`."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable

from qsmtpd.decision import DECLINED
from qsmtpd.facts import ControlError, Lost


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even that fails")


class Shapeless:
    def __repr__(self) -> str:
        raise RuntimeError("even that fails")


class Mute(BaseException):
    """No Exception at all."""


def fail() -> object:
    raise ValueError("on purpose\r\n250 ok\nevent=session end=quit")


def leave() -> object:
    raise SystemExit(0)


def refuse_to_say_why() -> object:
    raise Speechless


def base() -> object:
    raise Mute


def exhaust() -> object:
    raise MemoryError


def recurse() -> object:
    return recurse()


def spin() -> object:
    while True:
        pass


def doze() -> object:
    time.sleep(600)
    return DECLINED


def swallow_once() -> object:
    """It hears the alarm, and then says that all is well."""
    try:
        time.sleep(600)
    except BaseException:
        pass
    return DECLINED


def swallow() -> object:
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass


def swallow_twice() -> object:
    """The second time, what it hears is that all is over."""
    try:
        time.sleep(600)
    except BaseException:
        time.sleep(600)
    return DECLINED


def hang() -> object:
    """Like C code that never comes back: no handler of Python's runs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(600)
    return DECLINED


def compute() -> object:
    """Real C code that never comes back."""
    return sum(itertools.repeat(0))


def disarm() -> object:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while True:
        time.sleep(600)


def speak() -> object:
    print("said by print")
    os.write(1, b"said by write\n")
    os.system("echo said by a child")
    return DECLINED


def no_control() -> object:
    raise ControlError("control/mine", "is unreadable")


def lost() -> object:
    raise Lost


HOW: dict[bytes, Callable[[], object]] = {
    b"raise": fail,
    b"exit": leave,
    b"speechless": refuse_to_say_why,
    b"base": base,
    b"memory": exhaust,
    b"recurse": recurse,
    b"nonsense": lambda: 42,
    b"true": lambda: True,
    b"shapeless": Shapeless,
    b"error": ValueError,
    b"none": lambda: None,
    b"spin": spin,
    b"doze": doze,
    b"swallow-once": swallow_once,
    b"swallow": swallow,
    b"swallow-twice": swallow_twice,
    b"hang": hang,
    b"compute": compute,
    b"disarm": disarm,
    b"speak": speak,
    b"no-control": no_control,
    b"lost": lost,
}


def Plugin(settings):  # noqa: ANN001, ANN201, N802
    """Makes a plugin with just that hook."""
    stage = settings.line(None, "AT").decode()
    what = HOW[settings.line(None, "HOW")]
    if stage == "start":
        what()

    def hook(self, *facts):  # noqa: ANN001, ANN002, ANN202
        done = what()
        if done is DECLINED and stage in ("body", "queue", "ok", "deny", "reset", "disconnect"):
            return None
        return [] if done is DECLINED and stage == "capabilities" else done

    return type("Misbehaving", (), {"connect" if stage == "start" else stage: hook})()
