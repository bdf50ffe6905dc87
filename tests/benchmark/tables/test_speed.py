"""The tables of a speed measurement, from the content of its JSON file."""

import json
from pathlib import Path

from benchmark.tables import speed

RESULTS = Path(__file__).parents[3] / "results" / "speed"
ROW = {
    "method": "kd", "step_ms": 9.876, "step_ms_iqr": 0.5, "step_drift": 1.0, "images_per_s": 6480.4,
    "ratio_to_student": 1.25, "teacher_part_ms": 12.34, "ratio_to_student_and_teacher_part": 0.5, "live_step_ms": 20.04,
    "plain_step_ms": 30.0, "speedup_over_plain": 3.0, "share_of_matmul_rate": 0.64, "peak_mb": None, "student_ms": 7.9,
    "extra_parameters": 65792, "cache_gb": 1.5, "second_cache_gb": 0.25, "cache_fill_s": 7000.0,
    "second_cache_fill_s": 0.0,
}  # fmt: skip
RESULT = {
    "pair": "a-b", "batch_size": 64, "image_size": 32, "precision": "bf16", "burst": 20, "rows": [ROW],
    "impossible": {"fsp": "unequal channels"}, "pipeline_images_per_s": 275825.2, "matmul_gflops": 815.5, "seeds": 1,
    "teacher_training_step_ms": {"ours": 203.4, "plain": 444.5}, "versions": {"torch": "2.11"},
    "hardware": {"device": "cuda", "name": "GPU", "threads": 1, "compiled": True, "cuda_graph": True},
    "whole_pair": [{"methods": 1, "up_to": "kd", "cached": 22.27, "live": 22.3, "plain": 51.33}],
}  # fmt: skip


def test_each_method_has_a_line_and_the_whole_pair_its_hours():
    text = speed.document(RESULT, rounds=8, steps=3, epochs=240)
    (line,) = (x for x in text.splitlines() if x.startswith("| kd "))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "kd", "9.88", "0.50", "1.00", "6,480", "1.25", "12.3", "0.50", "20.0", "30.0", "3.00", "64 %", "–", "65,792",
        "1.50 + 0.25", "7,000",
    ]  # fmt: skip
    assert "GPU (cuda, 1 thread, compiled, steps as CUDA graphs), torch 2.11" in text
    assert "Median of 24 samples of 20 of our steps or one step of the reference loop in 8 interleaved rounds" in text
    assert "- fsp: unequal channels" in text and "with 1 seed each" in text
    assert text.rstrip().splitlines()[-1].replace(" ", "") == "|1,uptokd|22.3|22.3|51.3|"


def test_two_close_precisions_have_a_table_of_both():
    rows = [{**ROW, "other_step_ms": 10.0}, {**ROW, "method": "at", "step_ms": 12.0, "other_step_ms": 10.0}]
    text = speed.document(RESULT | {"rows": rows, "other_precision": "fp32"}, rounds=8, steps=3, epochs=240)
    assert "precision=auto takes bf16" in text
    table = text.partition("precision=auto takes bf16")[2].partition("\nHours of")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    assert lines[0] == ["method", "bf16, ms/step", "fp32, ms/step", "÷ better"]
    assert lines[2:] == [["kd", "9.88", "10.0", "1.00"], ["at", "12.0", "10.0", "1.20"]]
    assert "precision=auto" not in speed.document(RESULT, rounds=8, steps=3, epochs=240)


def test_a_note_compares_the_loader_of_photographs_with_its_decoder():
    rates = {"decoder_images_per_s": 1250.0, "loader_images_per_s": 1200.0}
    streaming = {"decoder": "pil", "workers": 2, "width": 500, "height": 375, **rates}
    text = speed.document(RESULT | {"streaming": streaming}, rounds=8, steps=3, epochs=240)
    assert (
        "Photographs of 500 × 375 px, by pil and 2 workers: decoding and cropping alone 1,250 images/s, "
        "the loader that training reads 1,200 (96 %)." in text
    )
    assert "Photographs" not in speed.document(RESULT | {"streaming": None}, rounds=8, steps=3, epochs=240)


def test_measured_results_have_their_tables():
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        text = speed.document(result, rounds=8, steps=3, epochs=240)
        assert text.count("\n| ") >= len(result["rows"]) + len(result["whole_pair"])
