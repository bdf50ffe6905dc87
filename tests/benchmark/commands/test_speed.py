"""`speed`: its result and its loops. Nothing here depends on how fast anything is."""

import dataclasses
import json
import weakref

import pytest
import torch

from benchmark.__main__ import main
from benchmark.commands import speed, speed_harness
from benchmark.commands.speed_harness import Measurement, SpeedHarness, SubprocessLoop
from benchmark.commands.timed_loop import TimedLoop
from benchmark.config.compose import load_config
from benchmark.config.schema import SpeedOptions
from benchmark.errors import UserError


@pytest.fixture
def small(monkeypatch):
    """Few images, in this process."""
    monkeypatch.setattr(speed_harness, "IMAGES", 600)


OVERRIDES = [
    "profile=speed", "pair=resnet14-resnet8", "device=cpu", "threads=1", "dataset.size=16", "recipe.batch_size=16",
    "crd.negatives=32", "precision=fp32",
]  # fmt: skip
FEW = ["rounds=2", "steps=1"]


class ReferenceLoopHere(TimedLoop):
    """Stands for the loop in a process of its own, which would take seconds to start."""

    def __init__(self, measurement: Measurement, name: str) -> None:
        super().__init__(SpeedHarness(measurement).reference_loop(name).step)

    def __enter__(self) -> TimedLoop:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def measurement(*words: str, rounds: int = 2) -> Measurement:
    """What `speed` would measure with few samples."""
    overrides = [*OVERRIDES, *words]
    return Measurement(load_config(overrides), overrides, "resnet14", "resnet8", rounds, 1, ("fp32", "fp32"))


@pytest.fixture
def harness(small) -> SpeedHarness:
    return SpeedHarness(measurement())


def test_the_result_has_all_keys_with_numbers_that_agree(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "peak_memory_of_each", lambda _, names: dict.fromkeys(names, 123.0))
    monkeypatch.setattr(speed, "SubprocessLoop", ReferenceLoopHere)
    folders = [f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}"]
    overrides = [*OVERRIDES, "methods=ce,kd,fitnet,crd,mlld", *FEW, *folders]
    assert main(["speed", *overrides]) == 0
    result = json.loads((tmp_path / "reports" / "speed" / "resnet14-resnet8.json").read_text())
    assert result["hardware"]["device"] == "cpu" and result["versions"]["torch"] == torch.__version__
    rows = {r["method"]: r for r in result["rows"]}
    assert list(rows) == ["ce", "kd", "fitnet", "crd", "mlld"]
    for row in rows.values():
        for key in ("step_ms", "images_per_s", "ratio_to_student", "speedup_over_plain", "peak_mb", "plain_step_ms"):
            assert row[key] > 0
        assert row["ratio_to_student"] == pytest.approx(row["step_ms"] / row["student_ms"])
        assert row["speedup_over_plain"] == pytest.approx(row["plain_step_ms"] / row["step_ms"])
        assert row["images_per_s"] == pytest.approx(16 / row["step_ms"] * 1000)
        both = row["student_ms"] + row["teacher_part_ms"]
        assert row["ratio_to_student_and_teacher_part"] == pytest.approx(row["step_ms"] / both)
    # a cache where logits or pooled features suffice, its size by hand: 600 images, 162 views, rows and checksums
    width = 2 if result["precision"] == "bf16" else 4
    assert rows["kd"]["cache_gb"] == pytest.approx(600 * 162 * (100 * width + 8) / 1e9)
    assert rows["crd"]["cache_gb"] == pytest.approx(600 * 162 * (64 * width + 8) / 1e9)
    assert rows["ce"]["cache_gb"] == rows["fitnet"]["cache_gb"] == 0
    # and of the second views of one seed, a row for each of 240 epochs
    assert rows["mlld"]["second_cache_gb"] == pytest.approx(600 * 240 * (100 * width + 8) / 1e9)
    assert all(rows[n]["second_cache_gb"] == 0 for n in ("ce", "kd", "fitnet", "crd"))
    assert [w["methods"] for w in result["whole_pair"]] == [1, 2, 3, 4, 5]
    # hours by hand: 240 epochs of 38 steps, the teacher once and each method with three seeds, and the caches, of which
    # KD and MLLD share one
    teacher_ms, hour = result["teacher_training_step_ms"], 240 * 38 / 3.6e6
    last = result["whole_pair"][-1]
    for loop, key, teacher in (("live", "live_step_ms", "ours"), ("plain", "plain_step_ms", "plain")):
        assert last[loop] == pytest.approx(hour * (teacher_ms[teacher] + 3 * sum(r[key] for r in rows.values())))
    fill = rows["kd"]["cache_fill_s"] + rows["crd"]["cache_fill_s"] + 3 * rows["mlld"]["second_cache_fill_s"]
    steps = hour * (teacher_ms["ours"] + 3 * sum(r["step_ms"] for r in rows.values()))
    assert last["cached"] == pytest.approx(steps + fill / 3600) and result["seeds"] == 3 and fill > 0
    # FitNet's share counts the teacher to its second stage: 16 × 16 px, 3 stages of 4 convolutions and shortcuts
    stage, rate = 16 * 16 * 9 * 16 * (3 + 16 * 4), result["matmul_gflops"] * 1e9
    halved = 16 * 16 * (9 * 16 * 32 + 9 * 32 * 32 * 3 + 16 * 32) // 4
    student = rows["ce"]["share_of_matmul_rate"] * rows["ce"]["step_ms"] * rate / 1000 / 16 / 2
    work = rows["fitnet"]["share_of_matmul_rate"] * rows["fitnet"]["step_ms"] * rate / 1000 / 16 / 2
    assert work - student == pytest.approx(stage + halved, rel=1e-6)
    assert result["pipeline_images_per_s"] > 0
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "reports" / "speed" / "resnet14-resnet8.md").read_text().strip()
    assert not list((tmp_path / "runs").iterdir())  # the caches it made are gone


@pytest.mark.parametrize(
    ("speedup", "precision", "other"),
    [(1.6, "bf16", None), (1.29, "bf16", "fp32"), (0.8, "fp32", "bf16"), (0.7, "fp32", None)],
)
def test_both_precisions_are_timed_where_they_are_close(tmp_path, monkeypatch, capsys, speedup, precision, other):
    monkeypatch.setattr(speed, "bf16_speedup", lambda _, __, network: {"resnet14": 2.0, "resnet8": speedup}[network])
    words = [*OVERRIDES, f"runs={tmp_path}", "precision=auto"]
    plan = speed.plan_measurement(load_config(words), words, "resnet14", "resnet8", SpeedOptions("speed", 2, 1))
    assert (plan.precisions, plan.other_precision) == (("bf16", precision), other)
    assert plan.teacher_training.precisions == ("bf16", "bf16") and plan.teacher_training.other_precision is None
    assert f"{speedup:.2f} × for resnet8" in capsys.readouterr().err


def test_the_second_precision_has_a_cache_and_a_time_of_its_own(small, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SubprocessLoop", ReferenceLoopHere)
    harness = SpeedHarness(dataclasses.replace(measurement(), other_precision="bf16"))
    row = speed.time_method(harness, "kd", tmp_path, 1e9, None)
    assert row["other_step_ms"] > 0 and len({path.parent for path in tmp_path.rglob("logits.bin")}) == 2
    assert speed.time_method(SpeedHarness(measurement()), "kd", tmp_path, 1e9, None)["other_step_ms"] is None


def test_an_interrupted_measurement_keeps_the_finished_methods(small, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "peak_memory_of_each", lambda _, names: dict.fromkeys(names, 123.0))

    def interrupted(measurement, name):
        if name == "crd":
            raise KeyboardInterrupt
        return ReferenceLoopHere(measurement, name)

    monkeypatch.setattr(speed, "SubprocessLoop", interrupted)
    folders = [f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}"]
    assert main(["speed", *OVERRIDES, "methods=kd,crd", *FEW, *folders]) == 130
    result = json.loads((tmp_path / "reports" / "speed" / "resnet14-resnet8.json").read_text())
    assert [r["method"] for r in result["rows"]] == ["kd"] and [w["methods"] for w in result["whole_pair"]] == [1]
    assert "\n| kd " in (tmp_path / "reports" / "speed" / "resnet14-resnet8.md").read_text()


def test_the_profile_is_that_of_speed_and_a_data_set_needs_its_mean(small, tmp_path, capsys, monkeypatch):
    configs = []
    monkeypatch.setattr(speed, "measure", lambda measurement: configs.append(measurement.config) or [])
    folders = [f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}", "precision=fp32"]
    assert main(["speed", *folders]) == 0
    assert (configs[0].profile, configs[0].dataset.name) == ("speed", "cifar100")
    assert main(["speed", *folders, "dataset=digits"]) == 2
    assert "digits needs dataset.mean= and dataset.std=" in capsys.readouterr().err and len(configs) == 1


def test_a_reference_loop_that_dies_is_reported_in_one_line():
    with SubprocessLoop(measurement(), "kd") as loop:
        assert len(loop.run(2, lambda: None)) == 2
        loop._process.kill()
        with pytest.raises(UserError, match=r"reference loop of kd ended with status -9 .* leave the method out"):
            loop.run(1, lambda: None)
    assert not loop._process.is_alive()


@pytest.mark.parametrize("name", ["kd", "crd", "sdd", "catkd", "mlld"])
def test_a_filled_cache_runs_no_teacher(harness, tmp_path, name):
    loop, trainer = harness.training_loop(name, tmp_path)

    def never(*_):
        raise AssertionError("the teacher was run")

    trainer.teacher_outputs.network.forward = never
    assert len(loop.run(3, harness.wait)) == 3


@pytest.mark.parametrize(("name", "passes"), [("ce", 0), ("kd", 0), ("crd", 0), ("mlld", 0), ("fitnet", 1)])
def test_the_teacher_s_part_of_a_step_is_what_no_cache_holds(harness, tmp_path, monkeypatch, name, passes):
    _, trainer = harness.training_loop(name, tmp_path)
    read = []
    monkeypatch.setattr(
        trainer.teacher_outputs, "live", lambda images, needs, _: read.append((len(images), *needs.maps))
    )
    harness.teacher_loop(trainer).run(2, harness.wait)
    assert read == 2 * passes * [(16, 2)]  # of a batch of 16; FitNet reads the maps of the second stage


def test_a_cache_beyond_the_limit_is_not_timed(small, tmp_path, capsys):
    _, trainer = SpeedHarness(measurement("teacher.cache_gb=0.001")).training_loop("kd", tmp_path)
    assert trainer.teacher_outputs.caches == [None] and trainer.teacher_outputs.live_passes == 1
    assert "more than teacher.cache_gb=0.001; the teacher runs live" in capsys.readouterr().err
    assert speed.cache_costs(trainer)["cache_gb"] == 0


def test_steps_continue_into_the_next_epoch(small, tmp_path):
    harness = SpeedHarness(measurement("recipe.batch_size=200"))  # three batches of 600 images
    loop, _ = harness.training_loop("kd", tmp_path)
    assert len(loop.run(5, harness.wait)) == 5
    assert speed.measure_pipeline_rate(harness) > 0


def test_initialization_epochs_count_in_the_hours_of_a_pair(harness):
    row = {
        "method": "ab", "pre_epochs": 30, "step_ms": 9.0, "live_step_ms": 9.0, "plain_step_ms": 40.0,
        "cache_kinds": [], "cache_fill_s": 0.0, "second_cache_kinds": [], "second_cache_fill_s": 0.0,
    }  # fmt: skip
    (hours,) = speed.pair_hours(harness, {"ours": 0.0, "plain": 0.0}, [row])
    assert hours["live"] == hours["cached"] == pytest.approx(3 * 270 * 38 * 9 / 3.6e6)


def test_the_teacher_s_passes_are_captured_where_steps_are(harness, monkeypatch):
    trainer, replays = harness.trainer("fitnet"), []
    harness.hardware = dataclasses.replace(harness.hardware, graphs=True)
    outputs = trainer.teacher_outputs
    images, live = [], outputs.live
    outputs.live = lambda x, *rest: (images.append(weakref.ref(x)), live(x, *rest))[1]

    def capture(step, generator, reads):
        captured = step(None)
        return lambda: replays.append(captured)

    monkeypatch.setattr("benchmark.training.graphs.SINGLE_GRAPH", capture)
    loop = harness.teacher_loop(trainer)
    loop.run(2, harness.wait)
    assert [list(captured[0].maps) for captured in replays] == [[2], [2]]
    assert images[-1]() is not None  # the captured step reads their memory


def test_all_steps_are_within_one_epoch(small, monkeypatch):
    """Because an epoch starts with a capture."""
    monkeypatch.setitem(speed_harness.STEPS_PER_SAMPLE, "cpu", 20)
    for size, steps in ((16, 11), (50, 2), (200, 1)):  # 600 images; 3 steps to warm up, one sample, and two more
        harness = SpeedHarness(measurement(f"recipe.batch_size={size}"))
        assert harness.steps_per_sample == steps and harness.steps == 3 + 3 * steps


def test_peak_memory_includes_the_banks_of_crd(tmp_path):
    peaks = speed.peak_memory_of_each(measurement(f"runs={tmp_path}", "methods=crd"), ["crd"])
    banks_mb = 2 * 50_000 * 128 * 4 / 1e6
    assert peaks["crd"] is not None and peaks["crd"] > 100 + banks_mb


def test_methods_that_read_the_teachers_features_are_prepared_in_every_loop(harness, tmp_path):
    _, trainer = harness.training_loop("kdpp", tmp_path)
    assert trainer.method.directions.isfinite().all()
    assert harness.reference_loop("kdpp").step().isfinite()
