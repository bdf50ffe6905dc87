"""Griffe extension for the API pages: show `name: meaning` lines of a docstring as a list."""

import re
from typing import Any

import griffe

ITEM = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (.*)")


class ParameterLists(griffe.Extension):
    """Rewrites the docstrings of all objects; MkDocs then renders them as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Return a docstring in which a paragraph of `name: meaning` lines, with their continuations, is a list."""
    return "\n\n".join(_as_list(block) for block in re.split(r"\n[ \t]*\n", docstring))


def _as_list(paragraph: str) -> str:
    lines = paragraph.split("\n")
    if ITEM.match(lines[0]) is None:
        return paragraph
    rewritten = []
    for line in lines:
        item = ITEM.match(line)
        rewritten.append(f"- `{item[1]}`: {item[2]}" if item else f"    {line.strip()}")
    return "\n".join(rewritten)
