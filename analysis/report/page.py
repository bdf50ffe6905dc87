"""What the report's page is made of, and its rendering as one HTML file that needs no network.

All text is escaped, since names come from run folders that others may have made. Script and style are part of the page,
and figures are data URIs.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from analysis.groups import ResultGroup
from analysis.tables import html
from benchmark.tables.model import Listing, Table

FOLD_ABOVE = 20  # lines


@dataclass(frozen=True)
class Picture:
    """A figure. uri: its data; width: in CSS pixels; file: its PDF, relative to the page.

    reason: why there is no image; the caption stands without one then.
    """

    uri: str
    width: int
    alt: str
    caption: str
    file: str
    pair: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Section:
    """Notes, figures, tables and lists under one title. pair, method: the only ones that the section is about.

    figures_first: figures stand above the tables. fold_above: tables of more lines are folded.
    """

    title: str
    id: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    lists: Sequence[Listing] = ()
    pair: str | None = None
    method: str | None = None
    figures_first: bool = False
    fold_above: int = FOLD_ABOVE

    def folded(self, table: Table) -> bool:
        """Return whether a table is folded until a reader opens it."""
        return sum(1 for _ in table.lines) > self.fold_above

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.notes or self.tables or self.pictures or self.lists)


@dataclass(frozen=True)
class Part:
    """Sections under one heading: those of a group of runs, or of all ablations."""

    title: str
    sections: list[Section] = field(default_factory=list)


def of_tables(
    title: str, id: str, tables: Sequence[Table], pictures: Sequence[Picture] = (), notes: Sequence[str] = ()
) -> Section:
    """Return a section with the notes of its tables above them, and their sources below. notes: further ones."""
    texts = [*(text for table in tables for text in (*table.intro, *table.notes)), *notes]
    sources = [f"[{i}] {source}" for table in tables for i, source in enumerate(table.sources, 1)]
    lists = [Listing("Published", list(dict.fromkeys(sources)))] if sources else []
    return Section(title, id, list(dict.fromkeys(texts)), tables, pictures, lists)


def data_uri(kind: str, image: bytes) -> str:
    """Return an image as a data URI. kind: `png` or `svg+xml`."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def render(parts: Sequence[Part], groups: Sequence[ResultGroup], root: Path) -> str:
    """Return the page as HTML. root: the folder of all runs."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    script, style = (_template(environment, name) for name in ("report.js", "report.css"))
    sections = [section for part in parts for section in part.sections]
    pairs = [pair for group in groups for pair in group.pairs] + [s.pair for s in sections if s.pair]
    methods = [row.method for group in groups for row in group.method_rows] + [s.method for s in sections if s.method]
    titles = {k: v for group in groups for k, v in zip(group.runs.method, group.runs.title, strict=True)}
    filters = html.Filters(list(dict.fromkeys(pairs)), list(dict.fromkeys(methods)))
    return environment.get_template("report.html.j2").render(
        parts=parts, root=str(root), runs=sum(len(group.runs) for group in groups), filters=filters,
        table=html.render, titles=titles,
        script=script, style=style, allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def _template(environment: jinja2.Environment, name: str) -> str:
    """A file of the templates as it is."""
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]
