"""`tune`: the default first, reproducible proposals, pruning, reports, and a choice that ignores the test set."""

import csv
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from benchmark.__main__ import main
from benchmark.commands import tune, tuning_report, tuning_study, tuning_trial, validation
from benchmark.commands.tuning_space import search_space
from benchmark.config import files
from benchmark.config.compose import load_method
from benchmark.errors import UserError
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import Outcome
from benchmark.runs.folder import RunFolder
from benchmark.runs.tracking import Tracking
from benchmark.training.evaluation import Evaluator

PAIR = "resnet14-resnet8"
KD = ["temperature", "ce_weight", "kd_weight"]


@pytest.fixture
def words(tiny) -> list[str]:
    """A tuning of KD in seconds: 12 validation images, two epochs, one seed."""
    return [*tiny, "tune", "methods=kd", "dataset.validation=0.25"]


@pytest.fixture
def planted(monkeypatch) -> list[float]:
    """Runs train, but their validation accuracy is 50 − 10 |log10(kd_weight / 3)| + epoch. The returned list receives
    the kd_weight of each trained run."""
    trained, measure = [], Evaluator.__call__

    def call(self, network, epoch):
        metrics, logits = measure(self, network, epoch)
        if "val_top1" in metrics and trained:
            metrics["val_top1"] = 50 - 10 * abs(math.log10(trained[-1] / 3)) + epoch
        return metrics, logits

    def run(cell, *where, **more):
        trained.append(cell.config["method"]["kd_weight"])
        return execute(cell, *where, **more)

    monkeypatch.setattr(Evaluator, "__call__", call)
    monkeypatch.setattr(tuning_trial, "execute", run)
    return trained


def reports(folder: Path) -> dict[str, Path]:
    """The reports of the only tuning, by suffix."""
    paths = {p.suffix: p for p in (folder / "reports" / "tuning").iterdir()}
    assert set(paths) == {".csv", ".md", ".yaml"}
    return paths


def rows(folder: Path) -> list[dict[str, str]]:
    with open(reports(folder)[".csv"], newline="") as f:
        return list(csv.DictReader(f))


def runs(folder: Path) -> dict[tuple, RunFolder]:
    """All students in the store, by the options and the seed in their config."""
    folders = {}
    for path in (folder / "runs" / "npz" / PAIR).glob("kd/*/seed=*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        folders[(*(config["method"][k] for k in KD), config["seed"])] = RunFolder(path.parent)
    return folders


def test_the_default_is_first_and_the_best_on_validation_is_chosen(words, tmp_path, capsys):
    assert main([*words, "trials=4", "seeds=0,1"]) == 0
    table, store = rows(tmp_path), runs(tmp_path)
    assert [r["trial"] for r in table] == ["1", "2", "3", "4"] and {r["state"] for r in table} == {"complete"}
    assert [float(table[0][k]) for k in KD] == [4.0, 0.1, 0.9]
    assert len(store) == 8 and all(r.done for r in store.values())
    for r in table:
        accuracies = [store[(*(float(r[k]) for k in KD), seed)].metrics()[-1]["val_top1"] for seed in (0, 1)]
        assert [float(r["val_seed_0"]), float(r["val_seed_1"])] == accuracies
        assert float(r["val_mean"]) == pytest.approx(sum(accuracies) / 2)
    best = max(table, key=lambda r: float(r["val_mean"]))
    text = re.sub(" +", " ", reports(tmp_path)[".md"].read_text())
    assert f"Chosen: trial {best['trial']}" in text and "16 of 16 epochs" in text
    validation, test = text.split("\nTest accuracy")
    for part, accuracy in ((validation, "val_top1_last"), (test, "top1_last")):
        lasts = [
            [getattr(store[(*(float(r[k]) for k in KD), seed)].record, accuracy) for r in (table[0], best)]
            for seed in (0, 1)
        ]
        assert "test_top1" not in store[(4.0, 0.1, 0.9, 0)].metrics()[-1]  # the test set is sealed while training
        for seed, (default, chosen) in enumerate(lasts):
            assert f"| {seed} | {default:.2f} | {chosen:.2f} | {chosen - default:+.2f} |" in part
        means = [sum(both) / 2 for both in zip(*lasts, strict=True)]
        assert f"| mean | {means[0]:.2f} | {means[1]:.2f} | {means[1] - means[0]:+.2f} (n = 2" in part

    # the default's runs are those of bench, and a second call trains nothing
    capsys.readouterr()
    assert main([o for o in words if o != "tune"] + ["seeds=0,1", "plan"]) == 0
    assert "runs: 0 to train, 3 done" in capsys.readouterr().out
    before = {p: p.read_bytes() for p in reports(tmp_path).values()}
    stamps = {k: r.weights.stat().st_mtime_ns for k, r in store.items()}
    assert main([*words, "trials=4", "seeds=0,1"]) == 0
    assert {p: p.read_bytes() for p in reports(tmp_path).values()} == before
    assert {k: r.weights.stat().st_mtime_ns for k, r in runs(tmp_path).items()} == stamps


def test_a_killed_tuning_resumes_with_the_same_trials(words, tmp_path, planted, monkeypatch):
    monkeypatch.setattr(tuning_study, "COMPLETE_BEFORE_PRUNING", 2)
    again = [w.replace(str(tmp_path / "r"), str(tmp_path / "again" / "r")) for w in words]
    assert main([*words, "trials=4"]) == 0
    whole, calls = rows(tmp_path), []

    def killed(cell, tracking, progress, capture):
        calls.append(cell)
        if len(calls) in (1, 4):  # in the default, and in another trial
            watch = progress.watch

            def stop(line):
                watch(line)
                raise KeyboardInterrupt  # after an epoch

            progress.watch = stop
        return inner(cell, tracking, progress, capture)

    inner = tuning_trial.execute
    monkeypatch.setattr(tuning_trial, "execute", killed)
    assert main([*again, "trials=4"]) == 130
    assert not (tmp_path / "again" / "reports").exists()
    assert main([*again, "trials=4"]) == 130
    (journal,) = (tmp_path / "again" / "runs" / "tuning").glob("*.journal")
    with open(journal, "a") as f:
        f.write('{"op_code":6,"wor')  # and the disk was full
    assert main([*again, "trials=4"]) == 0
    assert rows(tmp_path / "again") == whole and len(whole) == 4
    trained = len(calls)
    assert main([*again, "trials=5"]) == 0  # a greater budget goes on; the smaller is still there
    assert rows(tmp_path / "again")[:4] == whole and len(rows(tmp_path / "again")) == 5
    assert len({c.identity for c in calls[trained:]} - {c.identity for c in calls[:trained]}) == 1
    assert main([*again, "trials=4"]) == 0
    assert rows(tmp_path / "again") == whole


def test_a_trial_below_the_median_is_pruned_and_its_run_can_be_resumed(words, tmp_path, planted, monkeypatch):
    monkeypatch.setattr(tuning_study, "COMPLETE_BEFORE_PRUNING", 1)
    assert main([*words, "trials=6", "seeds=0,1"]) == 0
    table, store = rows(tmp_path), runs(tmp_path)
    score = {r["trial"]: -abs(math.log10(float(r["kd_weight"]) / 3)) for r in table}
    complete: list[float] = []
    for r in table:  # what the median pruner has to do, by hand
        below = bool(complete) and score[r["trial"]] < float(np.median(complete))
        assert r["state"] == ("pruned" if below else "complete")
        first, second = (store.get((*(float(r[k]) for k in KD), seed)) for seed in (0, 1))
        if below:
            assert (r["pruned_at_seed"], r["pruned_at_epoch"], r["val_mean"]) == ("0", "1", "")
            assert first.status == "running" and second is None
            with first.lock():
                pruned = r
        else:
            assert first.done and second.done and r["reason"] == ""
            complete.append(score[r["trial"]])
    assert {r["state"] for r in table} == {"pruned", "complete"}
    assert f"{len(complete)} complete, {6 - len(complete)} pruned" in reports(tmp_path)[".md"].read_text()
    spent = len(complete) * 4 + 6 - len(complete)
    assert f"{spent} of 24 epochs" in reports(tmp_path)[".md"].read_text()

    # a study made anew over the runs that are there comes to the same
    shutil.rmtree(tmp_path / "runs" / "tuning")
    planted.clear()
    assert main([*words, "trials=6", "seeds=0,1"]) == 0
    assert rows(tmp_path) == table
    # and what was pruned can be finished
    tuning = tune.plan_tuning([w for w in words if w != "tune"])
    cell = tuning.runs({k: float(pruned[k]) for k in KD})[0]
    assert execute(cell, Tracking(tuning.plan.config.tracker, tmp_path), Progress(1)).status == "done"
    assert runs(tmp_path)[(*(float(pruned[k]) for k in KD), 0)].done


def test_epochs_that_are_not_evaluated_are_not_judged(words, tmp_path, planted):
    command = [*words, "trials=1", "recipe.epochs=3", "evaluate_every=2"]
    assert main(command) == 0
    ((_, folder),) = runs(tmp_path).items()
    assert [line["epoch"] for line in folder.metrics() if "val_top1" in line] == [1, 3]


def test_a_diverged_trial_is_recorded_with_its_reason(words, tmp_path, planted, monkeypatch):
    inner, calls = tuning_trial.execute, []

    def run(cell, *where):
        calls.append(cell)
        if len(calls) != 2:
            return inner(cell, *where)
        cell.folder.path.mkdir(parents=True)
        cell.folder.set_status("diverged", "term kd is nan at step 3")
        return Outcome(cell.name, "diverged", "term kd is nan at step 3")

    monkeypatch.setattr(tuning_trial, "execute", run)
    assert main([*words, "trials=3"]) == 0
    assert [(r["state"], r["reason"]) for r in rows(tmp_path)] == [
        ("complete", ""), ("diverged", "term kd is nan at step 3"), ("complete", ""),
    ]  # fmt: skip
    shutil.rmtree(tmp_path / "runs" / "tuning")
    before = len(calls)
    assert main([*words, "trials=3"]) == 0
    assert [r["state"] for r in rows(tmp_path)] == ["complete", "diverged", "complete"]
    assert calls[1].identity not in [c.identity for c in calls[before:]]  # it would diverge again


def test_nothing_is_chosen_where_every_trial_diverges(words, tmp_path, capsys):
    assert main([*words, "trials=2", "kd.kd_weight=1e38"]) == 1
    assert "no trial was complete: term" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_a_failed_run_stops_the_tuning_and_its_trial_is_repeated(words, tmp_path, planted, monkeypatch, capsys):
    inner = tuning_trial.execute
    with monkeypatch.context() as m:
        m.setattr(tuning_trial, "execute", lambda cell, *_: Outcome(cell.name, "failed", "no memory"))
        assert main([*words, "trials=2"]) == 1
    assert f"not finished: {PAIR} kd seed 0: failed: no memory" in capsys.readouterr().err
    assert tuning_trial.execute is inner and main([*words, "trials=2"]) == 0
    assert [r["state"] for r in rows(tmp_path)] == ["complete"] * 2 and rows(tmp_path)[0]["kd_weight"] == "0.9"


def test_proposals_depend_on_the_sampler_seed(words, tmp_path, planted):
    proposals = []
    for seed in (0, 1):
        moved = [w.replace(str(tmp_path / "r"), str(tmp_path / str(seed) / "r")) for w in words]
        assert main([*moved, "trials=2", "recipe.epochs=1", f"sampler_seed={seed}"]) == 0
        proposals.append([[r[k] for k in KD] for r in rows(tmp_path / str(seed))])
    assert proposals[0][0] == proposals[1][0] and proposals[0][1] != proposals[1][1]


def test_the_choice_does_not_depend_on_the_test_set(words, tmp_path):
    assert main([*words, "trials=2"]) == 0
    whole, text = rows(tmp_path), reports(tmp_path)[".md"].read_text()
    arrays = dict(np.load(tmp_path / "tiny.npz"))
    arrays["y_test"] = (arrays["y_test"] + 1) % 6
    np.savez(tmp_path / "tiny.npz", **arrays)
    moved = [w.replace(str(tmp_path / "r"), str(tmp_path / "again" / "r")) for w in words]
    assert main([*moved, "trials=2"]) == 0
    assert rows(tmp_path / "again") == whole
    other = reports(tmp_path / "again")[".md"].read_text()
    assert other.split("\nTest acc")[0] == text.split("\nTest acc")[0] and len({r["val_mean"] for r in whole}) > 1


def test_a_validation_split_is_held_out_where_there_is_none(tiny, capsys):
    tuning = tune.plan_tuning([*tiny, "methods=kd", "dataset.validation=0.25"])
    assert tuning.plan.config.dataset.validation == 0.25 and capsys.readouterr().out == ""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(validation, "VALIDATION", 0.5)  # a tenth of 48 images is too few for six classes
        tuning = tune.plan_tuning([*tiny, "methods=kd"])
    assert len(tuning.plan.dataset.val.labels) == 24 and len(tuning.plan.dataset.train.labels) == 24
    out = capsys.readouterr().out
    assert "dataset.validation is set to 0.5" in out and out.count("\n") == 1


@pytest.fixture
def conf(tmp_path, monkeypatch) -> Path:
    """A copy of the configs that may be changed."""
    shutil.copytree(files.CONF, tmp_path / "conf")
    monkeypatch.setattr(files, "CONF", tmp_path / "conf")
    return tmp_path / "conf"


def test_the_overlay_is_a_method_of_its_own(words, tmp_path, planted, conf, capsys):
    assert main([*words, "trials=3", "kd.temperature=2"]) == 0
    best = max(rows(tmp_path), key=lambda r: float(r["val_mean"]))
    chosen = {k: float(best[k]) for k in ("ce_weight", "kd_weight")} | {"temperature": 2.0}
    shutil.copy(reports(tmp_path)[".yaml"], conf / "method" / "kd_tuned.yaml")
    tuned = load_method("kd_tuned", PAIR, [])
    assert {k: getattr(tuned.options, k) for k in chosen} == chosen and best["trial"] != "1"
    assert tuned.about["title"] == "KD (tuned)" and tuned.about["year"] == 2015
    assert load_method("kd_tuned", "vgg13-vgg8", []).options == load_method("kd", "vgg13-vgg8", []).options
    common = [w for w in words if w not in ("tune", "methods=kd")]
    capsys.readouterr()
    assert main(["plan", *common, "methods=kd,kd_tuned", "kd.temperature=2"]) == 0
    assert "runs: 1 to train, 2 done" in capsys.readouterr().out
    # the same as overrides, as the summary names them
    line = next(x for x in reports(tmp_path)[".yaml"].read_text().splitlines() if x.startswith("# Or without"))
    overrides = line.split(": ", 1)[1].split()
    assert load_method("kd", PAIR, overrides).options == tuned.options


def test_the_overlay_takes_precedence_over_the_pair_s_values(tiny, conf):
    overrides = [*tiny, "dataset.validation=0.25", "methods=dkd", "pair=resnet56-resnet20"]
    tuning = tune.plan_tuning(overrides)
    assert tuning.method.options.beta == 2.0 and tuning.space["beta"] == FloatDistribution(0.2, 20.0, log=True)
    trial = tuning_study.Trial(
        3, "complete", {"temperature": 3.0, "ce_weight": 1.5, "alpha": 1e-5, "beta": 7.5}, {0: 50.0}
    )
    (conf / "method" / "dkd_tuned.yaml").write_text(tuning_report.overlay(tuning, trial))
    for options in (
        load_method("dkd_tuned", "resnet56-resnet20", tiny).options,
        load_method("dkd", "resnet56-resnet20", [*tiny, *tuning_report.option_words("dkd", trial.options)]).options,
    ):
        assert (options.temperature, options.ce_weight, options.alpha, options.beta) == (3.0, 1.5, 1e-5, 7.5)
        assert options.warmup == tuning.method.options.warmup


def test_a_combination_is_tuned_by_the_options_of_its_parts(tiny, conf):
    tuning = tune.plan_tuning([*tiny, "dataset.validation=0.25", "methods=crd_kd", "crd_kd.crd.negatives=8"])
    names = ["crd.ce_weight", "crd.crd_weight", "crd.temperature", "kd.temperature", "kd.kd_weight"]
    assert list(tuning.space) == names  # crd.yaml keeps its momentum, and the cross-entropy of KD is 0
    values = dict(zip(names, (0.5, 1.5, 0.1, 3.0, 2.0), strict=True))
    (conf / "method" / "crd_kd_tuned.yaml").write_text(
        tuning_report.overlay(tuning, tuning_study.Trial(2, "complete", values, {0: 1.0}))
    )
    for method in (
        load_method("crd_kd_tuned", PAIR, tiny),
        load_method("crd_kd", PAIR, [*tiny, "crd_kd.crd.negatives=8", *tuning_report.option_words("crd_kd", values)]),
    ):
        assert {n: method.values[n] for n in names} == values and method.values["crd.negatives"] == 8


def space_of(conf: Path, name: str, block: str, *fixed: str) -> dict:
    path = conf / "method" / f"{name}.yaml"
    others = [line for line in path.read_text().splitlines() if not line.startswith("tune:")]
    path.write_text("\n".join([*others, f"tune: {block}", ""]))
    return search_space(load_method(name, PAIR, ["dataset=cifar100"]), fixed)


def test_the_default_space_spans_a_decade_on_both_sides_of_each_weight(conf):
    method = load_method("clkd", PAIR, ["dataset=cifar100"])
    expected = {"lambda_ce": (0.1, 10.0), "mu": (1.0, 100.0), "beta": (0.2, 20.0), "nu": (0.1, 10.0)}
    space = search_space(method)
    assert {k: (pytest.approx(d.low), pytest.approx(d.high)) for k, d in space.items()} == expected
    assert all(isinstance(d, FloatDistribution) and d.log for d in space.values())
    assert set(search_space(method, ["mu"])) == {"lambda_ce", "beta", "nu"}
    assert "nu" not in search_space(load_method("clkd", PAIR, ["dataset=cifar100", "clkd.nu=0"]))
    assert search_space(load_method("ce", PAIR, ["dataset=cifar100"])) == {}


def test_a_method_s_yaml_may_declare_its_space(conf):
    block = "{hint_weight: null, ce_weight: {low: 0, high: 2, log: false}, hint_layer: {low: 1, high: 3}}"
    assert space_of(conf, "fitnet", block) == {
        "ce_weight": FloatDistribution(0.0, 2.0), "hint_layer": IntDistribution(1, 3, log=True),
    }  # fmt: skip
    space = space_of(conf, "clkd", "{cc_norm: [fro2, fro], beta: [1, 2, 4], cc_temperature: null, cc_warmup: null}")
    assert space["cc_norm"] == CategoricalDistribution(["fro2", "fro"])
    assert space["beta"] == CategoricalDistribution([1.0, 2.0, 4.0]) and len(space) == 5


def test_a_choice_that_does_not_suit_the_networks_is_refused_before_training(tiny, conf):
    path = conf / "method" / "fitnet.yaml"
    path.write_text(f"{path.read_text()}\ntune: {{hint_layer: [2, 3, 9]}}\n")
    with pytest.raises(UserError, match=r"tune.hint_layer: .*hint_layer is 9"):
        tune.plan_tuning([*tiny, "methods=fitnet", "dataset.validation=0.25"])


def test_the_declared_space_does_not_change_identities(conf):
    before = load_method("kd", PAIR, []).resolved()
    space_of(conf, "kd", "{temperature: null}")
    assert load_method("kd", PAIR, []).resolved() == before


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{temprature: null}", "tune of kd names 'temprature', which is no option of it; did you mean temperature?"),
        ("{temperature: {low: 5, high: 9}}", "must contain the default, 4.0"),
        ("{temperature: {low: 0, high: 9}}", "tune.temperature of kd: "),
        ("{temperature: {low: 9, high: 2}}", "tune.temperature of kd: "),
        ("{temperature: {low: -1, high: 9, log: false}}", "kd.temperature is -1.0: it must be above 0"),
        ("{temperature: 3}", "a list of values, or null"),
        ("{temperature: [hot, 4]}", "tune.temperature of kd: "),
        ("{standardise: {low: 0, high: 1}}", "give a list of values"),
    ],
)
def test_an_invalid_space_is_refused_in_one_line(conf, block, message):
    with pytest.raises(UserError) as e:
        space_of(conf, "kd", block)
    assert message in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["methods=kdd"], "unknown method 'kdd'; did you mean kd"),
        (["methods=kd", "kd.temprature=3"], "kd has no option 'temprature'; did you mean temperature?"),
        (["methods=kd,dkd"], "tune takes one method"),
        (["methods=ce"], "ce has no option to tune"),
        (["methods=kd", "kd.temperature=2", "kd.ce_weight=1", "kd.kd_weight=3"], "no option to tune but those given"),
        (["methods=kd", "trials=0"], "trials is 0: it must be at least 1"),
        (["methods=kd", "trials=many"], "Value 'many' of type 'str' could not be converted to Integer"),
        (["methods=kd", "trails=3"], "unknown key 'trails'; did you mean trials"),
        (["methods=kd", "pair=resnet14-resnet8,resnet20-resnet8"], "tune takes one pair"),
    ],
)
def test_invalid_commands_end_with_one_line_and_status_2(tiny, tmp_path, capsys, arguments, message):
    assert main(["tune", *tiny, "dataset.validation=0.25", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1 and err.startswith("error: ") and out == ""
    assert not (tmp_path / "runs").exists() and not (tmp_path / "reports").exists()


def test_a_damaged_journal_is_refused(words, tmp_path, planted, capsys):
    assert main([*words, "trials=1"]) == 0
    (journal,) = (tmp_path / "runs" / "tuning").glob("*.journal")
    for content in (b"not a journal\nat all\n", b"\xff\xfe\x00\x80", b"\xff\n\x80\n"):
        journal.write_bytes(content)
        assert main([*words, "trials=1"]) == 2
        assert "move it away" in capsys.readouterr().err
        assert journal.read_bytes() == content
