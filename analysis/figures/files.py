"""Draw figures and write their files; a figure that cannot be drawn leaves its reason and no file."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.groups import ResultGroup
from benchmark.runs.folder import atomic, file_name

METADATA: dict[str, dict[str, Any]] = {  # without what would make the bytes differ from run to run
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}
COLUMN = "column"  # behind the names of figures that are as wide as one column
Drawn = Figure | Sequence[Figure] | None


class Undrawable(Exception):
    """Raised where no figure can be drawn of the data that there are. The message is the reason, on one line."""


@dataclass(frozen=True)
class FigurePage:
    """One page of a figure. images: its bytes by suffix. width: in inches. pdf: its file."""

    images: dict[str, bytes]
    width: float
    pdf: Path


@dataclass
class FigureWriter:
    """Writes the figures of one command to `folder` as PNG and PDF.

    `paths` collects the files, `problems` why figures are missing, `notes` which ones are wider than was asked for.
    width: of figures in inches, as the look has it that they are drawn in. extra: further suffixes to render, not to
    write.
    """

    folder: Path
    width: float = style.TEXT_WIDTH
    extra: tuple[str, ...] = ()
    paths: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, stem: str, draw: Callable[[], Drawn]) -> list[FigurePage]:
        """Draw a figure and write its pages; none where there is nothing to draw, or where it cannot be drawn, with the
        reason among `problems`. The files of a figure for one column have names of their own.

        Whatever goes wrong in one figure must not lose the others, so every exception in drawing is reported instead of
        raised. Errors of the file system are raised: they would hit every figure.
        """
        try:
            with matplotlib.rc_context(style.STYLE):
                pages = [(page, _render(page, ("png", "pdf", *self.extra))) for page in _pages(draw())]
        except Exception as e:
            self.problems.append(f"{stem} cannot be drawn: {describe(e)}")
            return []
        width = max((figure.get_figwidth() for figure, _ in pages), default=self.width)
        if width > self.width:
            self.notes.append(
                f"{stem} is {width} in wide, for both columns of a paper: its columns do not fit into {self.width} in"
            )
        stem = stem if width > style.COLUMN_WIDTH else f"{stem}-{COLUMN}"
        written = [self._write_page(page_name(stem, i), *page) for i, page in enumerate(pages, 1)]
        self._remove_pages(stem, len(pages) + 1)
        return written

    def _remove_pages(self, stem: str, first: int) -> None:
        """Remove pages, from number `first` on, of an earlier figure that had more: they would seem to belong to this
        one. A figure's first page is never removed."""
        number = max(first, 2)
        while (png := self.folder / f"{page_name(stem, number)}.png").exists():
            png.unlink()
            png.with_suffix(".pdf").unlink(missing_ok=True)
            number += 1

    def _write_page(self, name: str, figure: Figure, images: dict[str, bytes]) -> FigurePage:
        for suffix in ("png", "pdf"):
            self.paths.append(self.folder / f"{name}.{suffix}")
            with atomic(self.paths[-1]) as f:
                f.write(images[suffix])
        return FigurePage(images, figure.get_figwidth(), self.paths[-1])


def describe(e: Exception) -> str:
    """Return why a figure cannot be drawn, on one line."""
    text = " ".join(str(e).split())
    return text if isinstance(e, Undrawable) else f"{type(e).__name__}: {text}"


def stem(group: ResultGroup, name: str, pair: str | None = None) -> str:
    """Return the name of a figure's files without the suffix."""
    parts = (group.dataset, group.profile, group.name, pair, name)
    return file_name(*dict.fromkeys(part for part in parts if part))  # a selection of one pair is called by it


def page_name(stem: str, page: int) -> str:
    """Return the name of a page's files: that of the figure, with a number from the second page on."""
    return stem if page == 1 else f"{stem}-{page}"


def _pages(drawn: Drawn) -> Sequence[Figure]:
    if drawn is None:
        return []
    return [drawn] if isinstance(drawn, Figure) else drawn


def _render(figure: Figure, suffixes: Sequence[str]) -> dict[str, bytes]:
    """The bytes of a figure by suffix."""
    FigureCanvasAgg(figure)
    images = {}
    for suffix in suffixes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=METADATA[suffix])
        images[suffix] = buffer.getvalue()
    return images
