"""Read what the analysis commands print and write."""

import csv
from pathlib import Path


def cells(markdown: str, label: str, block: int = 0) -> list[str]:
    """Return the cells of one row, without its label, of the `block`-th table that has it."""
    rows = [line for line in markdown.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in rows[block].strip("|").split("|")][1:]


def csv_records(path: Path) -> list[dict[str, str]]:
    """Return the records of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
