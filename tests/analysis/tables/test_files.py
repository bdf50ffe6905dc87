"""The files of all tables, byte for byte."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.analysis.reading import cells

EXPECTED = Path(__file__).parent / "expected"
PAIR = "resnet20-resnet8"


def test_all_files_are_the_golden_ones(full, analyse, tmp_path, golden):
    status, out, err = analyse("table")
    files = sorted((tmp_path / "reports" / "tables").iterdir())
    for path in files:
        golden(EXPECTED / path.name, path.read_bytes())
    assert status == 0
    assert [path.name for path in files] == sorted(path.name for path in EXPECTED.iterdir())
    assert out == "\n".join((EXPECTED / f"{name}.md").read_text() for name in ("cifar100-short", "digits-quick"))
    assert err.count("written: ") == len(files) + 1  # and the record of the selection


def test_another_process_with_other_hashes_writes_the_same_bytes(full, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "analysis", "table", f"runs={full.root}", f"reports={tmp_path / 'other'}"],
        check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "1"},
    )  # fmt: skip
    for path in EXPECTED.iterdir():
        assert (tmp_path / "other" / "tables" / path.name).read_bytes() == path.read_bytes()


def test_golden_cells_agree_with_hand_computed_ones():
    """Seeds 69 and 70: mean 69.5, deviation sqrt(0.25 + 0.25) = 0.7071; the student's 67, 68, 69 have mean 68."""
    markdown = (EXPECTED / "cifar100-short.md").read_text()
    assert cells(markdown, "KD")[:2] == ["**69.50 ± 0.71 (2)**", "+1.50"]
    assert cells(markdown, "Student") == [
        "68.00 ± 1.00 (3)",
        "–",
        "69.06 [1]",
        "60.00 ± 1.00 (3)",
        "–",
        "64.00",
        "3.00",
    ]
    assert cells(markdown, "Teacher") == ["72.00 (1)", "–", "72.34 [1]", "62.30 (1)", "–", "–", "–"]


def test_many_pairs_are_cut_into_narrow_tables(full, analyse, tmp_path):
    for i in range(9):
        full.student(f"resnet110-resnet{8 + 6 * i}", "kd", f"00000000010{i}", 0, 60.0, teacher_top1=71.0)
    analyse("table", "dataset=cifar100")
    text = (tmp_path / "reports/tables/cifar100-short.tex").read_text()
    tabulars = re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.S)
    heads = [re.findall(r"\{(\w+) \$\\rightarrow\$ (\w+)\}", body) for body in tabulars]
    assert len(tabulars) > 2 and len({pair for of_table in heads for pair in of_table}) == 11
    assert max(map(len, heads)) - min(map(len, heads)) <= 1
    rows = [line for body in tabulars for line in body.splitlines() if line.endswith(r"\\")]
    assert not [row for row in rows if set(row.removesuffix(r" \\").split(" & ")[1:]) == {"{--}"}]  # without entries
