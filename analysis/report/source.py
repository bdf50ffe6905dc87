"""What the sections of one group of runs are built from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from analysis.fidelity import Fidelity
from analysis.figures import files
from analysis.figures.files import Drawn, FigurePage, FigureWriter
from analysis.figures.style import FOLDER, Appearance
from analysis.groups import ResultGroup
from analysis.report.page import Picture, data_uri
from analysis.tables.results import Results

SVG_LIMIT = 200_000  # bytes; a larger figure is shown as PNG


@dataclass
class Source:
    """One group of runs. number: of the group on the page. root: the folder of all runs. writer: of the figures' files,
    which also collects what could not be shown, and why."""

    number: int
    results: Results
    fidelity: Fidelity
    root: Path
    reports: Path
    appearance: Appearance
    writer: FigureWriter

    @property
    def group(self) -> ResultGroup:
        """The group of runs."""
        return self.results.group

    @property
    def problems(self) -> list[str]:
        """What could not be shown, and why."""
        return self.writer.problems

    @property
    def prefix(self) -> str:
        """What keeps the ids of this group apart from those of others."""
        return f"g{self.number}-"

    def id(self, name: str) -> str:
        """Return the id of an element of this group."""
        return f"{self.prefix}{name}"

    def arrow(self, pair: str) -> str:
        """Return a pair as `teacher → student`."""
        return " → ".join(self.group.networks[pair])

    def pictures(
        self, draw: Callable[[], Drawn], name: str, alt: str, caption: str, pair: str | None = None
    ) -> Iterator[Picture]:
        """Iterate over the pages of a figure, after their files are written; a figure that cannot be drawn leaves one
        picture with the reason."""
        before = len(self.problems)
        pages = self.writer.write(files.stem(self.group, name, pair), draw)
        for number, page in enumerate(pages, 1):
            text = caption if len(pages) == 1 else f"{caption} ({number} of {len(pages)})"
            yield Picture(_uri(page), round(96 * page.width), alt, text, f"{FOLDER}/{page.pdf.name}", pair)
        for reason in self.problems[before:]:
            yield Picture("", 0, "", caption, "", pair, reason)

    def guarded(self, pictures: Iterator[Picture], name: str, caption: str, pair: str | None = None) -> list[Picture]:
        """Return pictures that are computed on the way; where their data cannot be computed, the last has the reason.

        One figure must not lose the page, so every exception but those of the file system is reported instead of
        raised.
        """
        drawn: list[Picture] = []
        try:
            for picture in pictures:
                drawn.append(picture)
        except OSError:
            raise
        except Exception as e:
            reason = f"{files.stem(self.group, name, pair)} cannot be drawn: {files.describe(e)}"
            self.problems.append(reason)
            drawn.append(Picture("", 0, "", caption, "", pair, reason))
        return drawn


def _uri(page: FigurePage) -> str:
    """A page as SVG where that is small, else as PNG."""
    svg = page.images["svg"]
    return data_uri("svg+xml", svg) if len(svg) <= SVG_LIMIT else data_uri("png", page.images["png"])
