"""What the sections of one group of runs are built from."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from analysis.fidelity import Fidelity
from analysis.figures import style
from analysis.groups import ResultGroup
from analysis.report.page import Picture, data_uri
from analysis.tables.results import Results

SVG_LIMIT = 200_000  # bytes; a larger figure is shown as PNG


@dataclass
class Source:
    """One group of runs. `problems` collects what could not be shown, and why; `written` the figures' files.

    number: of the group on the page. root: the folder of all runs. colors: of the methods.
    """

    number: int
    results: Results
    fidelity: Fidelity
    root: Path
    reports: Path
    colors: Mapping[str, str]
    written: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def group(self) -> ResultGroup:
        """The group of runs."""
        return self.results.group

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

    def picture(self, figure: Figure, name: str, alt: str, caption: str, pair: str | None = None) -> Picture:
        """Write a figure's files and take it into the page: as SVG where that is small, else as PNG."""
        stem = style.stem(self.group, name, pair)
        files = style.save(figure, self.reports / "plots", stem)
        self.written += files
        svg, metadata = io.BytesIO(), {"Date": None, "Creator": None}
        figure.savefig(svg, format="svg", metadata=metadata, bbox_inches="tight", pad_inches=0.05)
        uri = data_uri("svg+xml", svg.getvalue())
        if len(svg.getvalue()) > SVG_LIMIT:
            uri = data_uri("png", next(file for file in files if file.suffix == ".png").read_bytes())
        return Picture(uri, round(96 * figure.get_figwidth()), alt, caption, f"plots/{stem}.pdf", pair)
