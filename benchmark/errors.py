"""Errors of users: one clear line and exit status 2, never a traceback."""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """Invalid input. The message is one line: what is wrong, and what would be right."""


def message_line(error: BaseException) -> str:
    """Return the message of an exception as one line; the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: object, names: Iterable[str], n: int = 3) -> str:
    """Return '; did you mean a, b?' with the nearest names (ignoring case), or '; known: …' where none is near.

    A name of the same words in other order or with other signs between them is the only suggestion (crd+kd: crd_kd),
    else the names that end in this one (lr: recipe.lr), else those of similar spelling.
    """
    by_lowercase = {k.lower(): k for k in names}
    lowercase = str(name).lower()
    close = [k for k in by_lowercase if _words(k) == _words(lowercase)] if _words(lowercase) else []
    close = close or [k for k in by_lowercase if k.endswith(f".{lowercase}")]
    close = close or difflib.get_close_matches(lowercase, by_lowercase, n=n, cutoff=0.5)
    if close:
        return f"; did you mean {', '.join(by_lowercase[c] for c in close[:n])}?"
    return f"; known: {', '.join(sorted(by_lowercase.values()))}"


def _words(name: str) -> list[str]:
    return sorted(re.findall(r"[a-z0-9]+", name))


def describe_os_error(e: OSError) -> str:
    """Return an error of the file system as one line."""
    return f"{e.filename}: {e.strerror}" if e.filename else f"{e.strerror or e}"
