"""The speed command: what it reports, and that the plain loop trains. Nothing here depends on how fast anything is."""

import copy
import dataclasses
import itertools
import json
import weakref

import pytest
import torch

from benchmark.__main__ import main
from benchmark.commands import speed
from benchmark.commands.reference_loop import PlainTrainer
from benchmark.config import compose as configs
from benchmark.errors import UserError


@pytest.fixture
def small(monkeypatch):
    """A few steps on a few images."""
    for name, value in {"ROUNDS": 2, "STEPS": 1, "IMAGES": 600}.items():
        monkeypatch.setattr(speed, name, value)


OVERRIDES = [
    "profile=speed", "pair=resnet14-resnet8", "device=cpu", "threads=1", "dataset.size=16", "recipe.batch_size=16",
    "crd.negatives=32",
]  # fmt: skip


def test_the_report_holds_what_is_promised(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "_peaks", lambda *of: dict.fromkeys(of[-1], 123.0))
    folders = [f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}"]
    overrides = [*OVERRIDES, "methods=ce,kd,fitnet,crd,mlld", *folders]
    assert main(["speed", *overrides]) == 0
    found = json.loads((tmp_path / "reports" / "speed" / "resnet14-resnet8.json").read_text())
    assert found["hardware"]["device"] == "cpu" and found["versions"]["torch"] == torch.__version__
    rows = {r["method"]: r for r in found["rows"]}
    assert list(rows) == ["ce", "kd", "fitnet", "crd", "mlld"]
    for row in rows.values():
        for key in ("step_ms", "images_per_s", "ratio_to_student", "speedup_over_plain", "peak_mb", "plain_step_ms"):
            assert row[key] > 0
        assert row["ratio_to_student"] == pytest.approx(row["step_ms"] / row["student_ms"])
        assert row["speedup_over_plain"] == pytest.approx(row["plain_step_ms"] / row["step_ms"])
        assert row["images_per_s"] == pytest.approx(16 / row["step_ms"] * 1000)
        both = row["student_ms"] + row["teacher_part_ms"]
        assert row["ratio_to_student_and_teacher_part"] == pytest.approx(row["step_ms"] / both)
    # FitNet alone runs a part of the teacher in each step
    assert rows["fitnet"]["teacher_part_ms"] > 20 * max(rows[n]["teacher_part_ms"] for n in ("ce", "kd", "crd", "mlld"))
    # a cache where logits or pooled features suffice, its size by hand: 600 images, 162 views, rows and checksums
    width = 2 if found["precision"] == "bf16" else 4
    assert rows["kd"]["cache_gb"] == pytest.approx(600 * 162 * (100 * width + 8) / 1e9)
    assert rows["crd"]["cache_gb"] == pytest.approx(600 * 162 * (64 * width + 8) / 1e9)
    assert rows["ce"]["cache_gb"] == rows["fitnet"]["cache_gb"] == 0
    # and of the second views of one seed, a row for each of 240 epochs
    assert rows["mlld"]["second_cache_gb"] == pytest.approx(600 * 240 * (100 * width + 8) / 1e9)
    assert all(rows[n]["second_cache_gb"] == 0 for n in ("ce", "kd", "fitnet", "crd"))
    assert [w["methods"] for w in found["whole_pair"]] == [1, 2, 3, 4, 5]
    # hours by hand: 240 epochs of 38 steps, the teacher once and each method with three seeds, and the caches, of which
    # KD and MLLD share one
    own, hour = found["teacher_training_step_ms"], 240 * 38 / 3.6e6
    last = found["whole_pair"][-1]
    for loop, key, teacher in (("live", "live_step_ms", "ours"), ("plain", "plain_step_ms", "plain")):
        assert last[loop] == pytest.approx(hour * (own[teacher] + 3 * sum(r[key] for r in rows.values())))
    fill = rows["kd"]["cache_fill_s"] + rows["crd"]["cache_fill_s"] + 3 * rows["mlld"]["second_cache_fill_s"]
    steps = hour * (own["ours"] + 3 * sum(r["step_ms"] for r in rows.values()))
    assert last["cached"] == pytest.approx(steps + fill / 3600) and found["seeds"] == 3 and fill > 0
    # FitNet's share counts the teacher to its second stage: 16 × 16 px, 3 stages of 4 convolutions and shortcuts
    stage, rate = 16 * 16 * 9 * 16 * (3 + 16 * 4), found["matmul_gflops"] * 1e9
    halved = 16 * 16 * (9 * 16 * 32 + 9 * 32 * 32 * 3 + 16 * 32) // 4
    student = rows["ce"]["share_of_matmul_rate"] * rows["ce"]["step_ms"] * rate / 1000 / 16 / 2
    work = rows["fitnet"]["share_of_matmul_rate"] * rows["fitnet"]["step_ms"] * rate / 1000 / 16 / 2
    assert work - student == pytest.approx(stage + halved, rel=1e-6)
    assert found["pipeline_images_per_s"] > 0
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "reports" / "speed" / "resnet14-resnet8.md").read_text().strip()
    assert not list((tmp_path / "runs").iterdir())  # the caches it made are gone
    found |= {"burst": 20, "hardware": {**found["hardware"], "device": "cuda", "cuda_graph": True}}
    told = speed.markdown(found)
    assert "steps as CUDA graphs" in told and "times 20 steps of ours and one of the plain loop" in told


def test_what_is_done_is_written_where_it_is_stopped(small, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "_peaks", lambda *of: dict.fromkeys(of[-1], 123.0))
    plain = speed.Apart.__init__

    def stopped(self, config, overrides, teacher, student, name):
        if name == "crd":
            raise KeyboardInterrupt
        plain(self, config, overrides, teacher, student, name)

    monkeypatch.setattr(speed.Apart, "__init__", stopped)
    folders = [f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}"]
    assert main(["speed", *OVERRIDES, "methods=kd,crd", *folders]) == 130
    found = json.loads((tmp_path / "reports" / "speed" / "resnet14-resnet8.json").read_text())
    assert [r["method"] for r in found["rows"]] == ["kd"] and [w["methods"] for w in found["whole_pair"]] == [1]
    assert "| kd |" in (tmp_path / "reports" / "speed" / "resnet14-resnet8.md").read_text()


def test_no_profile_means_its_own_and_a_data_set_must_tell_its_mean(small, tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(speed, "measure", lambda config, *_: seen.append(config) or [])
    folders = [f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}"]
    assert main(["speed", *folders]) == 0
    assert (seen[0].profile, seen[0].dataset.name) == ("speed", "cifar100")
    assert main(["speed", *folders, "dataset=digits"]) == 2
    assert "digits needs dataset.mean= and dataset.std=" in capsys.readouterr().err and len(seen) == 1


def test_a_plain_loop_that_dies_is_told_in_one_line():
    with speed.Apart(configs.load(OVERRIDES), OVERRIDES, "resnet14", "resnet8", "kd") as lane:
        assert len(lane.run(2, lambda: None)) == 2
        lane._process.kill()
        with pytest.raises(UserError, match=r"plain loop of kd ended with status -9 .* leave the method out"):
            lane.run(1, lambda: None)
    assert not lane._process.is_alive()


@pytest.mark.parametrize("name", ["kd", "crd", "sdd", "catkd", "mlld"])
def test_a_filled_cache_runs_no_teacher(small, tmp_path, name):
    bench = speed.Bench(configs.load(OVERRIDES), OVERRIDES, "resnet14", "resnet8")
    lane, trainer = bench.ours(name, tmp_path)

    def never(*_):
        raise AssertionError("the teacher was run")

    trainer._frozen.forward = never
    assert len(lane.run(3, bench.wait)) == 3


def test_a_cache_beyond_the_limit_is_not_timed(small, tmp_path, capsys):
    overrides = [*OVERRIDES, "teacher.cache_gb=0.001"]
    bench = speed.Bench(configs.load(overrides), overrides, "resnet14", "resnet8")
    _, trainer = bench.ours("kd", tmp_path)
    assert trainer.cache is None and trainer.teacher_passes == 1
    assert "more than teacher.cache_gb=0.001; the teacher runs live" in capsys.readouterr().err
    assert speed._cost_of_caches(bench, trainer)["cache_gb"] == 0


def test_the_steps_go_on_where_an_epoch_ends(small, tmp_path):
    overrides = [*OVERRIDES, "recipe.batch_size=200"]  # three batches of 600 images
    bench = speed.Bench(configs.load(overrides), overrides, "resnet14", "resnet8")
    lane, _ = bench.ours("kd", tmp_path)
    assert len(lane.run(5, bench.wait)) == 5
    assert speed._pipeline_rate(bench) > 0


def test_a_first_stage_counts_for_the_whole_pair(small):
    bench = speed.Bench(configs.load(OVERRIDES), OVERRIDES, "resnet14", "resnet8")
    row = {
        "method": "ab", "pre_epochs": 30, "step_ms": 9.0, "live_step_ms": 9.0, "plain_step_ms": 40.0,
        "cache_kinds": [], "cache_fill_s": 0.0, "second_cache_kinds": [], "second_cache_fill_s": 0.0,
    }  # fmt: skip
    (told,) = speed._whole_pair(bench, {"ours": 0.0, "plain": 0.0}, [row])
    assert told["live"] == told["cached"] == pytest.approx(3 * 270 * 38 * 9 / 3.6e6)


def test_lanes_take_turns_forth_and_back(small, monkeypatch):
    monkeypatch.setattr(speed, "ROUNDS", 3)
    bench = speed.Bench(configs.load(OVERRIDES), OVERRIDES, "resnet14", "resnet8")
    steps = []
    lanes = [speed.Lane(lambda name=name: steps.append(name)) for name in "abc"]
    speed._take_turns(bench, lanes)
    assert "".join(steps) == "abccbaabc" and all(len(lane.seconds) == 3 for lane in lanes)


def test_the_steps_of_a_burst_share_its_time(monkeypatch):
    monkeypatch.setattr("time.perf_counter", itertools.count().__next__)
    steps, waits = [], []
    lane = speed.Lane(lambda: steps.append(1), burst=4)
    assert lane.run(2, lambda: waits.append(len(steps))) == [0.25, 0.25]
    assert waits == [0, 4, 4, 8]


def test_the_part_of_the_teacher_is_recorded_where_steps_are(small, monkeypatch):
    bench = speed.Bench(configs.load(OVERRIDES), OVERRIDES, "resnet14", "resnet8")
    trainer, replays = bench.trainer("fitnet"), []
    bench.machine = dataclasses.replace(bench.machine, graphs=True)
    images, taught = [], trainer.taught_live
    trainer.taught_live = lambda x, needs: (images.append(weakref.ref(x)), taught(x, needs))[1]

    def record(step, _):
        given = step()
        return lambda: replays.append(given), None

    monkeypatch.setattr("benchmark.training.capture.cuda_graph", record)
    lane = bench.teacher_part(trainer)
    lane.run(2, bench.wait)
    assert [list(given[0].maps) for given in replays] == [[2], [2]]
    assert images[-1]() is not None  # a recording reads them where they were


def test_all_steps_are_of_one_epoch(small, monkeypatch):
    """As an epoch begins with a recording."""
    monkeypatch.setitem(speed.BURST, "cpu", 20)
    for size, burst in ((16, 11), (50, 2), (200, 1)):  # 600 images; 3 warm steps, a burst and two more
        overrides = [*OVERRIDES, f"recipe.batch_size={size}"]
        bench = speed.Bench(configs.load(overrides), overrides, "resnet14", "resnet8")
        assert bench.burst == burst and bench.steps == 3 + 3 * burst


def test_peak_memory_is_that_of_each_method_s_own_process(tmp_path):
    overrides = [*OVERRIDES, f"runs={tmp_path}", "methods=ce,crd"]
    peaks = speed._peaks(configs.load(overrides), overrides, "resnet14", "resnet8", ["ce", "crd"])
    banks = 2 * 50_000 * 128 * 4 / 1e6
    assert peaks["ce"] > 100 and peaks["crd"] > peaks["ce"] + banks


@pytest.mark.parametrize("name", ["ce", "kd", "fitnet", "crd", "clkd"])
def test_the_plain_loop_trains_the_student_and_leaves_the_teacher(small, name):
    bench = speed.Bench(configs.load(OVERRIDES), OVERRIDES, "resnet14", "resnet8")
    teacher = bench.network("resnet14", plain=True).eval().requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    method = bench.method(name)
    trainer = PlainTrainer(
        bench.network("resnet8", plain=True), method, teacher, bench.dataset.train, bench.dataset.config, 16,
        bench.schedule, "cpu",
    )  # fmt: skip
    assert type(trainer.method) is (type(method).published or type(method))
    batch = trainer.batch()
    assert batch.images.shape == (16, 3, 16, 16) and batch.images.is_contiguous()
    assert torch.equal(bench.dataset.train.labels[batch.indices], batch.labels)
    trainer.batch = lambda: batch
    losses = [trainer.step().item() for _ in range(12)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_the_plain_augmentation_is_ours(small):
    """Every image of the plain loop is one of the views of our own augmentation."""
    bench = speed.Bench(configs.load(OVERRIDES), OVERRIDES, "resnet14", "resnet8")
    trainer = bench.trainer("ce")
    plain = PlainTrainer(
        bench.network("resnet8", plain=True), bench.method("ce"), trainer.teacher, bench.dataset.train,
        bench.dataset.config, 4, bench.schedule, "cpu",
    )  # fmt: skip
    batch = plain.batch()
    for image, index in zip(batch.images, batch.indices, strict=True):
        views = trainer.loader.view(index.expand(162), torch.arange(162))
        assert (views - image).abs().amax((1, 2, 3)).min() < 1e-5


def test_drift_and_spread_by_hand():
    lane = speed.Lane(lambda: None, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0])
    assert lane.ms == 2500 and lane.drift == 4.0
