"""Columns of a LaTeX table. Numbers stand in S columns of siunitx 3, aligned at the decimal point.

A column of numbers becomes up to three columns of LaTeX: the number with its ± uncertainty; the interval behind it; and
what hangs on it, its footnote symbol, number of runs and source. Bold and underlined numbers stay aligned.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.tables.model import BEST, NOTHING, NUMBER, SECOND, Cell, Column

CHARACTER = 4.3  # width of a character in \footnotesize, in points, on average
MARKS = {BEST: r"\textbf{%s}", SECOND: r"\underline{%s}"}  # in columns of text
PARSED = re.compile(r"([+−]?)(\d[\d,]*)(?:\.(\d+))?")  # what an S column aligns
EXPONENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]\d+)(?![\w.])")
CHARACTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}", "<": "$<$", ">": "$>$",
    "|": "$|$", '"': "''",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "χ": r"$\chi$", "²": r"$^2$", "√": r"$\surd$", "τ": r"$\tau$",
    "±": r"$\pm$", "−": "$-$", "–": "--", "Δ": r"$\Delta$", "→": r"$\rightarrow$", "×": r"$\times$", "÷": r"$\div$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "≤": r"$\leq$", "✓": r"$\checkmark$",
}  # fmt: skip


def escape(raw: str) -> str:
    """Return text of one line as LaTeX prints it unchanged, but for numbers such as 1e-09, written as powers of ten."""
    pieces, text, end = [], " ".join(raw.split()), 0
    for match in EXPONENT.finditer(text):
        factor = "" if match[1] == "1" else rf"{match[1]}\times "
        pieces += [_characters(text[end : match.start()]), rf"${factor}10^{{{int(match[2])}}}$"]
        end = match.end()
    return "".join([*pieces, _characters(text[end:])])


def _characters(text: str) -> str:
    return "".join(CHARACTERS.get(c, c) for c in text)


@dataclass(frozen=True)
class Layout:
    """How a column of a table is set: `specification` of its columns in LaTeX, `span` of them, `width` in points.

    usual_count: number of runs that is not printed, since the notes say it.
    """

    column: Column
    specification: str
    span: int
    width: float
    aligned: bool
    with_detail: bool
    with_post: bool
    usual_count: int

    @property
    def title(self) -> str:
        """The title over all columns in LaTeX, in two lines where that is shorter."""
        title = _stacked(self.column.short or self.column.title)
        if self.span > 1:
            return rf"\multicolumn{{{self.span}}}{{c}}{{{title}}}"
        return f"{{{title}}}" if self.aligned else title

    def cell(self, cell: Cell) -> str:
        """Return one cell as `span` cells of LaTeX."""
        if not self.aligned:
            return _text(cell)
        parts = [self._number(cell)]
        parts += [escape(cell.detail)] if self.with_detail else []
        parts += [_post(cell, self.usual_count)] if self.with_post else []
        return " & ".join(parts)

    def _number(self, cell: Cell) -> str:
        match = PARSED.fullmatch(cell.text)
        if match is None:
            return f"{{{escape(cell.text)}}}" if cell.text else ""
        sign, whole, decimals = match[1].replace("−", "-"), match[2].replace(",", ""), match[3]
        number = f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"
        number += f"({_uncertainty(cell)})" if _uncertainty(cell) else ""
        if cell.mark == BEST:
            return rf"\fontseries{{b}}\selectfont {number}"  # unlike \bfseries, no wider than other digits
        if cell.mark == SECOND:
            return rf"{{\rlap{{\underline{{\phantom{{{escape(cell.text)}}}}}}}}}{number}"
        return number


def layout(column: Column, cells: Sequence[Cell], usual_count: int) -> Layout:
    """Return how a column with these cells is set."""
    comparison = any(cell.text.startswith("<") for cell in cells)  # an S column has no sign for it in text
    matches = [match for cell in cells if (match := PARSED.fullmatch(cell.text))]
    title = max(map(len, _lines(column.short or column.title)))
    if column.kind != NUMBER or comparison or not matches:
        letter = "r" if column.kind == NUMBER else "l"
        width = CHARACTER * max([title, *(len(f"{cell.full_text}{cell.symbol}") for cell in cells)])
        return Layout(column, letter, 1, width, False, False, False, usual_count)
    prefix = "+" if any(match[1] for match in matches) else ""
    digits = max(len(match[2].replace(",", "")) for match in matches)
    decimals = max(len(match[3] or "") for match in matches)
    uncertainty = max(len(_uncertainty(cell)) for cell in cells)
    number = f"{prefix}{digits}.{decimals}" + (f"({uncertainty})" if uncertainty else "")
    specification = f"S[table-format={number}]"
    characters = len(prefix) + digits + (digits - 1) // 3 + decimals + bool(decimals)
    characters += decimals + 4 if uncertainty else 0
    details = max(len(cell.detail) for cell in cells)
    posts = max(_post_length(cell, usual_count) for cell in cells)
    specification += r"@{\;}>{\scriptsize}r" if details else ""
    specification += r"@{\,}>{\scriptsize}l" if posts else ""
    width = CHARACTER * max(title, characters + 0.8 * (details + posts))
    span = 1 + bool(details) + bool(posts)
    return Layout(column, specification, span, width, True, bool(details), bool(posts), usual_count)


def _uncertainty(cell: Cell) -> str:
    """The spread in units of the number's last digit, as siunitx takes it; empty for 0, which siunitx leaves out."""
    return cell.spread.replace(".", "").lstrip("0")


def _post(cell: Cell, usual_count: int) -> str:
    """What hangs on a number: a spread of 0, symbol, number of runs, source."""
    zero = escape(f"± {cell.spread}") if _has_zero_spread(cell) else ""
    symbol = rf"\textsuperscript{{{escape(cell.symbol)}}}" if cell.symbol else ""
    small = [f"({cell.count})"] if _shows_count(cell, usual_count) else []
    small += [escape(f"[{cell.source}]")] if cell.source else []
    return zero + symbol + "".join(small)


def _has_zero_spread(cell: Cell) -> bool:
    return bool(cell.spread) and not _uncertainty(cell)


def _post_length(cell: Cell, usual_count: int) -> int:
    source = len(f"[{cell.source}]") if cell.source else 0
    zero = len(f"± {cell.spread}") if _has_zero_spread(cell) else 0
    return zero + len(cell.symbol) + source + (len(f"({cell.count})") if _shows_count(cell, usual_count) else 0)


def _shows_count(cell: Cell, usual_count: int) -> bool:
    return bool(cell.count) and cell.count != usual_count


def _text(cell: Cell) -> str:
    content = MARKS.get(cell.mark if cell.text not in ("", NOTHING) else "", "%s") % escape(cell.text)
    content += rf"\textsuperscript{{{escape(cell.symbol)}}}" if cell.symbol else ""
    small = escape(cell.full_text.removeprefix(cell.text).strip())
    return f"{content} {{\\scriptsize {small}}}" if small else content


def _lines(title: str) -> list[str]:
    """A title in one line, or in two of about equal length where it is long, cut at a space or after a hyphen."""
    title = " ".join(title.split())
    cuts = [(title[: m.end()].strip(), title[m.end() :]) for m in re.finditer(r"[ -](?=.)", title)]
    if not cuts or len(title) < 10:
        return [title]
    return list(min(cuts, key=lambda lines: max(map(len, lines))))


def _stacked(title: str) -> str:
    lines = [escape(line) for line in _lines(title)]
    return lines[0] if len(lines) == 1 else rf"\shortstack{{{lines[0]}\\{lines[1]}}}"
