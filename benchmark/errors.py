"""Bad input: one clear line and exit status 2, never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What the user gave cannot be used. The message is one line: what is wrong and what would be right."""


def nearest(name: str, names: Iterable[str], n: int = 3) -> str:
    """'; did you mean a, b?' with the names nearest to `name` (case ignored), or '; known: …' where none is near."""
    known = {k.lower(): k for k in names}
    close = difflib.get_close_matches(name.lower(), known, n=n, cutoff=0.5)
    if close:
        return f"; did you mean {', '.join(known[c] for c in close)}?"
    return f"; known: {', '.join(sorted(known.values()))}"


def unwritable(e: OSError) -> str:
    """What the system refused, in a line."""
    return f"{e.filename}: {e.strerror}" if e.filename else f"{e.strerror or e}"
