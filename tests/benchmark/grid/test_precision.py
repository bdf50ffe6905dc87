"""The choice of `precision=auto`: by measurement, kept on disk, and by earlier runs. Nothing is timed here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmark.config.compose import load_config
from benchmark.config.schema import Config
from benchmark.errors import UserError
from benchmark.grid import execution, precision
from benchmark.grid import plan as grid
from benchmark.grid.plan import Plan
from benchmark.grid.precision import Basis, Measurements, Precision, PrecisionChooser
from benchmark.runs.folder import write_json
from benchmark.runs.record import RunStatus
from benchmark.training.hardware import Hardware
from tests.helpers import bench, student_runs, tracking_of

CPU = Hardware("cpu", 2, False, False)
CONDITIONS = {"network": "resnet8", "threads": 2}


class FakeMeasure:
    """Returns given speedups of bf16 by network, and records what was measured."""

    def __init__(self, **speedups: float) -> None:
        self.speedups, self.networks = speedups, []

    def __call__(self, config: Config, hardware: Hardware, network: str) -> float:
        self.networks.append(network)
        return self.speedups[network]


def chooser(folder: Path, measure: FakeMeasure | None, hardware: Hardware = CPU, *words: str) -> PrecisionChooser:
    return PrecisionChooser(load_config([f"runs={folder}", "precision=auto", *words]), hardware, measure)


def plan_auto(words: list[str], measure: FakeMeasure | None) -> Plan:
    """Return the plan of a command with `precision=auto`."""
    words = [*words, "precision=auto"]
    return grid.make_plan(load_config(words), words, measure=measure)


# ------------------------------------------------------------ by measurement


@pytest.mark.parametrize(("speedup", "value"), [(0.5, "fp32"), (1.149, "fp32"), (1.15, "bf16"), (2.0, "bf16")])
def test_bf16_is_taken_from_the_least_speedup_on(tmp_path, speedup, value):
    assert chooser(tmp_path, FakeMeasure(resnet8=speedup)).faster("resnet8") == Precision(
        value, Basis.MEASURED, speedup
    )


def test_a_configured_precision_is_not_measured(tmp_path):
    measure = FakeMeasure()
    for value in ("fp32", "bf16"):
        choice = chooser(tmp_path, measure, CPU, f"precision={value}").faster("resnet8")
        assert choice == Precision(value, Basis.CONFIGURED)
    assert measure.networks == [] and not list(tmp_path.iterdir())


def test_a_measurement_is_read_again_by_other_commands(tmp_path, capsys):
    measure = FakeMeasure(resnet8=1.9, resnet14=0.7)
    for _ in range(2):
        chosen = [chooser(tmp_path, measure).faster(name).value for name in ("resnet8", "resnet14")]
        assert chosen == ["bf16", "fp32"]
    assert measure.networks == ["resnet8", "resnet14"]
    assert capsys.readouterr().err.count("timing steps of resnet8 in fp32 and bf16") == 1
    assert chooser(tmp_path, None).faster("resnet8") == Precision("bf16", Basis.MEASURED, 1.9)


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        (Hardware("cpu", 1, False, False), []),
        (CPU, ["recipe.batch_size=16"]),
        (CPU, ["dataset.size=20"]),
    ],
)
def test_other_threads_or_sizes_are_measured_again(tmp_path, hardware, words):
    measure = FakeMeasure(resnet8=1.9)
    chooser(tmp_path, measure).faster("resnet8")
    chooser(tmp_path, measure, hardware, *words).faster("resnet8")
    assert measure.networks == ["resnet8", "resnet8"]


@pytest.mark.parametrize("changed", ["name", "model", "torch"])
def test_another_processor_or_torch_version_measures_again(tmp_path, monkeypatch, changed):
    measure = FakeMeasure(resnet8=1.9)
    assert chooser(tmp_path, measure).faster("resnet8").value == "bf16"
    if changed == "torch":
        monkeypatch.setattr(precision, "versions", lambda: {"torch": "9.9"})
    else:
        monkeypatch.setattr(Hardware, changed, property(lambda _: "another processor"))
    measure.speedups["resnet8"] = 0.6
    assert chooser(tmp_path, measure).faster("resnet8").value == "fp32"
    monkeypatch.undo()
    assert chooser(tmp_path, measure).faster("resnet8").value == "bf16"  # both are kept
    assert measure.networks == ["resnet8", "resnet8"]


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[1]", '{"measurements": 3}', '{"measurements": [7, {"bf16_speedup": 2}]}', '{"name": "of a user"}',
        json.dumps({"measurements": [{**CONDITIONS, "bf16_speedup": "fast"}]}),
        json.dumps({"measurements": [{**CONDITIONS, "bf16_speedup": 0}]}),
        json.dumps({"measurements": [{**CONDITIONS, "bf16_speedup": None}]}),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_measured_again(tmp_path, content):
    path = tmp_path / "precision.json"
    path.write_text(content)
    measurements = Measurements(path)
    assert measurements.find(CONDITIONS) is None
    assert measurements.find_or_add(CONDITIONS, lambda _: 1.5) == 1.5
    assert measurements.find_or_add(CONDITIONS, lambda _: pytest.fail("measured twice")) == 1.5


def test_the_measurement_of_a_process_that_held_the_lock_counts(tmp_path):
    """Of two commands that start together the second must not decide otherwise."""
    measurements = Measurements(tmp_path / "precision.json")

    def measure(conditions: Mapping[str, Any]) -> float:
        write_json(measurements.path, {"measurements": [{"network": "resnet14", "bf16_speedup": 3.0}]})
        return 1.1

    measurements.find_or_add(CONDITIONS, measure)
    assert measurements.find({"network": "resnet14"}) == 3.0 and measurements.find(CONDITIONS) == 1.1


# ------------------------------------------------------------ plans


def test_each_network_has_its_own_precision_and_the_plan_gives_the_reason(tiny, tmp_path):
    plan = plan_auto([*tiny, "methods=kd"], FakeMeasure(resnet14=1.871, resnet8=0.66))
    assert plan.teachers["resnet14"].config["precision"] == "bf16"
    assert plan.precision("student", "resnet8") == "fp32"
    text = plan.text()
    assert "precision auto" in text
    assert (
        "\nprecision bf16: its training steps are faster than those in fp32, 1.87 × for resnet14 (measured)\n" in text
    )
    assert "\nprecision fp32: bf16 is not at least 1.15 × as fast, but 0.66 × for resnet8 (measured)\n" in text


def test_a_plan_times_nothing_and_says_so(tiny, tmp_path):
    plan = plan_auto(tiny, None)
    assert "\nprecision of resnet14, resnet8: measured when training starts, or now by PROBE=1\n" in plan.text()
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="precision of resnet14 is not decided"):
        execution.run_plan(plan, tracking_of(plan))


def test_a_configured_precision_needs_no_reason(tiny):
    words = [*tiny, "precision=bf16"]
    text = grid.make_plan(load_config(words), words).text()
    assert "precision bf16" in text and text.count("precision") == 1


# ------------------------------------------------------------ by earlier runs


@pytest.fixture
def in_fp32(finished: list[str]) -> list[str]:
    """Overrides of a command whose runs were trained in fp32, without a precision."""
    return [word for word in finished if not word.startswith("precision=")]


def test_seeds_and_methods_that_are_added_have_the_precision_of_the_finished_runs(in_fp32, tmp_path):
    plan = plan_auto([*in_fp32, "methods=ce,kd,at", "seeds=0,1"], FakeMeasure())  # which knows no network
    runs = student_runs(plan)
    assert {run.config["precision"] for run in runs.values()} == {"fp32"}
    assert [name for name, run in runs.items() if run.folder.done] == ["ce-0", "kd-0"]
    assert f"precision fp32: resnet14, resnet8, as in earlier runs with these settings in {tmp_path / 'runs'}" in (
        plan.text()
    )


@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_runs_on_a_cluster_keep_the_precision_of_earlier_ones_and_are_never_measured(in_fp32, tmp_path, executor):
    measure, words = FakeMeasure(), [*in_fp32, f"executor={executor}"]
    plan = plan_auto(words, measure)
    assert {p.basis for p in plan.precisions.values()} == {Basis.EARLIER_RUNS} and plan.precision(
        "student", "resnet8"
    ) == "fp32"
    with pytest.raises(
        UserError, match=f"precision=auto: no earlier runs .* executor={executor}: give precision=bf16 or"
    ):
        plan_auto([*words, f"runs={tmp_path / 'none'}"], measure)
    assert measure.networks == []


def test_an_interrupted_run_is_resumed_in_its_precision(in_fp32, tmp_path):
    plan = plan_auto(in_fp32, None)
    for run in student_runs(plan).values():
        (run.folder.path / "result.json").unlink()
        run.folder.set_status(RunStatus.RUNNING)
    assert plan_auto(in_fp32, FakeMeasure(resnet8=2.0)).precision("student", "resnet8") == "fp32"


@pytest.mark.parametrize("other", ["recipe.epochs=3", "dataset.train_size=36", "recipe.lr=0.02"])
def test_runs_with_other_settings_do_not_decide(in_fp32, other):
    measure = FakeMeasure(resnet14=2.0, resnet8=2.0)
    plan = plan_auto([*in_fp32, other], measure)
    assert plan.precision("student", "resnet8") == "bf16" and measure.networks == ["resnet14", "resnet8"]


def test_a_run_that_was_never_started_does_not_decide(in_fp32):
    for run in student_runs(plan_auto(in_fp32, None)).values():
        run.folder.set_status(RunStatus.SKIPPED, "unsupported")
    assert plan_auto(in_fp32, FakeMeasure(resnet8=2.0)).precision("student", "resnet8") == "bf16"


def test_the_precision_of_most_runs_is_kept(in_fp32):
    bench([*in_fp32, "precision=bf16", "methods=ce", "seeds=0,1,2"])
    plan = plan_auto(in_fp32, None)
    assert plan.precision("student", "resnet8") == "bf16"  # three runs against two
    assert plan.precision("teacher", "resnet14") == "fp32"  # one run against one


# ------------------------------------------------------------ imported teachers


def test_an_imported_teacher_is_evaluated_in_fp32_and_not_measured(finished, tmp_path):
    words = [word for word in finished if not word.startswith("precision=")]
    checkpoint = plan_auto(words, None).teachers["resnet14"].folder.weights
    measure = FakeMeasure(resnet8=2.0)
    plan = plan_auto([*words, f"teacher.checkpoint={checkpoint}", f"runs={tmp_path / 'fresh'}"], measure)
    teacher = plan.teachers["resnet14"]
    assert teacher.config["precision"] == teacher.folder.record.precision == "fp32"
    assert measure.networks == ["resnet8"] and plan.precision("student", "resnet8") == "bf16"


def test_an_earlier_import_keeps_its_precision(finished, tmp_path):
    words = [word for word in finished if not word.startswith("precision=")]
    checkpoint = plan_auto(words, None).teachers["resnet14"].folder.weights
    words += [f"teacher.checkpoint={checkpoint}", f"runs={tmp_path / 'fresh'}"]
    explicit = [*words, "precision=bf16"]
    before = grid.make_plan(load_config(explicit), explicit).teachers["resnet14"]
    after = plan_auto(words, FakeMeasure(resnet8=0.5)).teachers["resnet14"]
    assert after.relative_path == before.relative_path and after.config["precision"] == "bf16"
