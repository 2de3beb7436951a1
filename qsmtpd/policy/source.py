"""The source of a plugin -> its code.

The builtin compile() makes some 200 classes of the ast module at its first call,
which costs a cold start 2.6 ms (CPython 3.11 to 3.13, callgrind, November 2026);
exec() compiles without them, but knows no file name and runs the code at once.
So exec() is stopped before the first line, and the code is given its file name.

No `from __future__` here: exec() would let the plugin inherit it.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType


class _Stopped(Exception):
    """Nothing of the code was run."""


def compile_file(source: bytes, path: str) -> "CodeType":
    """The code of a module, as compile(source, path, "exec", dont_inherit=True) makes it.

    Raises SyntaxError and ValueError. A SyntaxWarning is shown as of "<string>".
    """
    found: list[CodeType] = []
    scope: dict[str, object] = {}

    def stop(frame: "FrameType", event: str, argument: object) -> None:
        # Other code may run while it compiles: showing a warning, a callback of gc.
        if event == "call" and frame.f_globals is scope:
            found.append(frame.f_code)
            raise _Stopped

    before = sys.getprofile()
    sys.setprofile(stop)
    try:
        exec(source, scope)
    except _Stopped:
        pass
    except SyntaxError as error:
        if error.filename == "<string>":
            error.filename = path
        raise
    finally:
        sys.setprofile(before)
    return _with_name(found[0], path)


def _with_name(code: "CodeType", path: str) -> "CodeType":
    """This code, and all that is defined in it, as of the file `path`."""
    constants = [_with_name(c, path) if type(c) is type(code) else c for c in code.co_consts]
    return code.replace(co_filename=path, co_consts=tuple(constants))
