"""Errors of users: one clear line and exit status 2, never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Invalid input. The message is one line: what is wrong, and what would be right."""


def nearest(name: str, names: Iterable[str], n: int = 3) -> str:
    """Return '; did you mean a, b?' with the nearest names (ignoring case), or '; known: …' where none is near."""
    by_lowercase = {k.lower(): k for k in names}
    close = difflib.get_close_matches(name.lower(), by_lowercase, n=n, cutoff=0.5)
    if close:
        return f"; did you mean {', '.join(by_lowercase[c] for c in close)}?"
    return f"; known: {', '.join(sorted(by_lowercase.values()))}"


def describe_os_error(e: OSError) -> str:
    """Return an error of the file system as one line."""
    return f"{e.filename}: {e.strerror}" if e.filename else f"{e.strerror or e}"
