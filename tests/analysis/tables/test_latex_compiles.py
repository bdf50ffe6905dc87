"""LaTeX compiles all tables, in papers of one and of two columns, and they fit on the pages."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from analysis.tables import ablation, latex
from benchmark.tables.model import BEST, EMPTY, SECOND, TEXT, Cell, Column, Head, Line, Table
from tests.analysis.probes import write_probe

CLASSES = {
    "article": r"\documentclass{article}",
    "two columns": r"\documentclass[twocolumn]{article}",
    "IEEE": r"\documentclass[conference]{IEEEtran}",
}
LARGEST_OVERFULL = 5.0  # points
PAIR = "resnet20-resnet8"


def missing_files(files: Sequence[str]) -> list[str]:
    """The files of classes and packages that are not installed; all of them without TeX."""
    if not shutil.which("pdflatex"):
        return ["pdflatex"]
    return [name for name in files if subprocess.run(["kpsewhich", name], capture_output=True).returncode]


def compile_tables(folder: Path, document_class: str, inputs: Iterable[str]) -> None:
    """Compile a document of these files; fails for an error, a float larger than a page, and overfull lines."""
    name = re.search(r"\{(\w+)\}", document_class)[1]
    needed = [f"{name}.cls", *(f"{package}.sty" for package in latex.PACKAGES)]
    if missing := missing_files(needed):
        pytest.skip(f"TeX is not installed, or lacks {', '.join(missing)}")
    body = "\n".join(rf"\input{{{path}}}\clearpage" for path in inputs)
    preamble = rf"{document_class}\usepackage{{{','.join(latex.PACKAGES)}}}"
    (folder / "doc.tex").write_text(rf"{preamble}\begin{{document}}{body}\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "doc.tex"]
    process = subprocess.run(command, cwd=folder, capture_output=True)
    log = (folder / "doc.log").read_text(errors="replace")
    assert process.returncode == 0, log[-2000:]
    assert not re.findall(r"Float too large|Too many unprocessed floats", log)
    overfull = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(overfull, default=0) <= LARGEST_OVERFULL
    assert (folder / "doc.pdf").stat().st_size > 1000


@pytest.mark.parametrize("document_class", CLASSES.values(), ids=CLASSES)
def test_the_files_of_results_and_ablations(full, weights, analyse, tmp_path, document_class):
    odd = {"T": 4.0, "eps": 1e-9, "odd_key": r"50% of #1 & $x^2$ {~\y} [z]"}
    for seed in range(3):
        full.student(
            PAIR, "kd", "0000000000d1", seed, 60.0 + seed**2 / 3, options=odd, changes={"changed": ["method.T"]}
        )
    for i, run in enumerate(sorted(full.root.glob("cifar100/*-*/*/*/seed=*/result.json"))):
        for target in ("stl10", "my_own.images", "tinyimagenet"):
            write_probe(run.parent, target, 50.0 + i / 7)
    analyse("table", "structure", "dataset=cifar100", "accuracy=both")
    ablation.write(weights.loaded, tmp_path / "reports")
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "reports").glob("*/*.tex"))
    assert len(files) == 10  # of top-5, and of probes by both accuracies, too
    assert all("1e-09" not in (tmp_path / path).read_text() for path in files)
    compile_tables(tmp_path, document_class, map(str, files))


def accuracies(methods: int, pairs: int) -> Table:
    """A table of accuracies with all marks: the best, the second, daggers, fewer seeds, and published values."""
    marks = [Cell("71.20", mark=BEST, symbol="†"), Cell("70.05", mark=SECOND), Cell("69.99", symbol="‡", count=2)]
    cells = [Cell(c.text, mark=c.mark, symbol=c.symbol, count=c.count or 3, spread="0.21") for c in marks]
    lines = [
        Line([Cell(f"Method {i} (beta=2) *"), *([cells[i % 3], Cell("−1.25"), Cell("72.34", source=1)] * pairs)])
        for i in range(methods)
    ]
    columns = [Column("Method", TEXT), *([Column("top-1"), Column("Δ"), Column("published")] * pairs)]
    heads = [Head("", 1), *(Head(f"resnet32x4 → ShuffleV{i}", 3, f"p{i}") for i in range(pairs))]
    teacher = Line([Cell("Teacher"), *([Cell("72.30", count=1), EMPTY, EMPTY] * pairs)])
    intro = ["Top-1 accuracy on the test set in per cent at the last epoch. " * 6]
    return Table("", columns, [[teacher], lines], heads=heads, intro=intro, sources=["A source; own runs (last epoch)"])


def differences(methods: int, pairs: int) -> list[Table]:
    """Tables of significance, one for each pair, with both families."""
    columns = [Column("Method", TEXT), Column("against", TEXT), *map(Column, ("n", "difference", "p", "d_z"))]
    numbers = [Cell("3"), Cell("−12.50", "[−13.25, −11.75]", BEST, "‡"), Cell("<0.001"), Cell("−14.11")]
    blocks = [
        [Line([Cell(f"Method {i} (beta=2)"), Cell(other), *numbers]) for i in range(methods)]
        for other in ("KD", "Student")
    ]
    return [Table("", columns, blocks, title=f"resnet32x4-ShuffleV{i}") for i in range(pairs)]


@pytest.mark.parametrize("document_class", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize(("methods", "pairs"), [(6, 1), (15, 6), (45, 13)])
def test_few_and_many_methods_and_pairs(tmp_path, methods, pairs, document_class):
    texts = {"accuracies": [accuracies(methods, pairs)], "differences": differences(methods, min(pairs, 3))}
    for name, tables in texts.items():
        (tmp_path / f"{name}.tex").write_text(latex.floats(name, "Top-1 accuracy: cifar100, profile paper.", tables))
    compile_tables(tmp_path, document_class, [f"{name}.tex" for name in texts])
