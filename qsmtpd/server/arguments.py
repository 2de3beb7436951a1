"""A command line's options, as getopt(3) has them.

Python's own getopt loads gettext and expressions, half a megabyte that each process of
a server would have, too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container


def split(
    arguments: list[str], letters: str, words: Container[str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """The options, each with its value or "", and what stands behind them.

    A letter or word that has a value is followed by `:` or `=` in `letters` and `words`.
    Raises ValueError.
    """
    found: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, sign, value = word.partition("=")
            if name[2:] + "=" in words:
                found.append((name, value if sign else _next(rest, name)))
            elif name[2:] not in words:
                raise ValueError(f"option {name} not recognized")
            elif sign:
                raise ValueError(f"option {name} must not have an argument")
            else:
                found.append((name, ""))
            continue
        word = word[1:]
        while word:
            letter, word = word[0], word[1:]
            if letter == ":" or letter not in letters:
                raise ValueError(f"option -{letter} not recognized")
            if letter + ":" in letters:
                found.append(("-" + letter, word or _next(rest, "-" + letter)))
                word = ""
            else:
                found.append(("-" + letter, ""))
    return found, rest


def _next(rest: list[str], option: str) -> str:
    if not rest:
        raise ValueError(f"option {option} requires argument")
    return rest.pop(0)
