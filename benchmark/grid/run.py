"""Execution of one training run, from a resolved config to a finished run folder."""

import contextlib
import dataclasses
import functools
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark.config import method_files
from benchmark.data.datasets import Dataset
from benchmark.grid import data_parallel
from benchmark.grid.data_parallel import ProcessFailed
from benchmark.grid.identity import BATCH_NORM
from benchmark.grid.preparation import build_trainer, connect_cache, load_dataset
from benchmark.grid.progress import Progress
from benchmark.grid.training_run import BUSY, Outcome, TrainingRun
from benchmark.networks import custom
from benchmark.runs import folder as store
from benchmark.runs import provenance
from benchmark.runs.folder import RunBusy, RunFolder
from benchmark.runs.record import RunRecord, RunStatus
from benchmark.runs.tracking import Tracked, Tracking
from benchmark.runs.weights import DamagedFile, content_hash, load_weights, save, save_outputs
from benchmark.training.evaluation import Diverged, Evaluator, count_parameters, inference_parameters
from benchmark.training.graphs import SINGLE_GRAPH, Capture
from benchmark.training.hardware import versions
from benchmark.training.parallel import ALONE, Parallel
from benchmark.training.trainer import Trainer

CHECKPOINT_SHARE = 0.02  # largest share of the training time that goes into writing checkpoints
CHECKPOINT_KEYS = {"trainer", "epoch", "wall_s"}  # and `code`, which older checkpoints lack


def execute(
    run: TrainingRun, tracking: Tracking, progress: Progress, capture: Capture = SINGLE_GRAPH,
    dataset: Dataset | None = None, *, wait: bool = False,
) -> Outcome:  # fmt: skip
    """Train, resume or skip a run. capture: captures its steps where they are captured. dataset: that of the run; None
    loads it.

    wait: wait for another process that holds the run, and train it only where that one did not finish it.

    A failure is recorded in the run's folder and returned, not raised; an interruption by the user is raised.
    """
    started = time.monotonic()
    run.settings.hardware.prepare()
    outcome = _execute(run, tracking, progress, capture, dataset, wait)
    if run.settings.hardware.device == "cuda":
        gc.collect()  # a trainer is part of a reference cycle and would hold its memory during the next run
    return dataclasses.replace(outcome, tracking=tracking.mode, seconds=time.monotonic() - started)


def _execute(
    run: TrainingRun, tracking: Tracking, progress: Progress, capture: Capture, dataset: Dataset | None, wait: bool
) -> Outcome:
    folder = run.folder
    try:
        with folder.lock(wait):
            if folder.done:
                return Outcome(run.name, RunStatus.DONE)
            if run.unsupported_reason is not None:
                folder.write_config(run.config)
                folder.set_status(RunStatus.SKIPPED, run.unsupported_reason)
                return Outcome(run.name, RunStatus.SKIPPED, run.unsupported_reason)
            try:
                if run.settings.hardware.processes > 1:
                    _train_in_processes(run, tracking, progress)
                else:
                    _train(run, tracking, progress, capture, dataset)
            except Diverged as e:
                folder.set_status(RunStatus.DIVERGED, str(e))
                return Outcome(run.name, RunStatus.DIVERGED, str(e))
            except RunBusy:  # another host has taken over the folder, which this process must leave alone
                raise
            except (Exception, SystemExit) as e:  # a method may call sys.exit
                return Outcome(run.name, RunStatus.FAILED, _record_failure(folder, e))
            return Outcome(run.name, RunStatus.DONE)
    except RunBusy as e:
        return Outcome(run.name, BUSY, str(e))
    except OSError as e:  # the folder cannot be created or written
        return Outcome(run.name, RunStatus.FAILED, f"{type(e).__name__}: {e}")


def _record_failure(folder: RunFolder, error: BaseException) -> str:
    """Write the status and the traceback of a failed run; return the reason in a line."""
    reason = str(error) if isinstance(error, ProcessFailed) else method_files.describe_failure(error)
    path = folder.path / store.ERROR_FILE
    with contextlib.suppress(OSError):  # of a full disk, which may be why the run failed
        store.write_text(path, traceback.format_exc())
        folder.set_status(RunStatus.FAILED, reason)
        return f"{reason} (traceback in {path})"
    return reason


def _train_in_processes(run: TrainingRun, tracking: Tracking, progress: Progress) -> None:
    """Train a run by several processes, of which the first tracks it and writes its folder."""
    share = functools.partial(_train_share, run, tracking)
    whole_batch = BATCH_NORM not in run.config
    lock, hardware = run.folder.lock_file, run.settings.hardware
    tracking.mode = data_parallel.train(share, hardware, progress, lock, whole_batch_statistics=whole_batch)


def _train_share(run: TrainingRun, tracking: Tracking, parallel: Parallel, progress: Progress) -> str:
    """Train a run in one of its processes; return the mode of tracking at the end."""
    run.settings.hardware.prepare()
    if parallel.rank == 0:
        _train(run, tracking, progress, SINGLE_GRAPH, None, parallel)
    else:
        _assist(run, parallel)
    return tracking.mode


def _assist(run: TrainingRun, parallel: Parallel) -> None:
    """Train with the first process of a run, by the same steps as `_train` but for all that it writes."""
    custom.add_all(run.config.get("networks", {}))
    dataset = load_dataset(run)
    trainer, evaluator = build_trainer(run, dataset, SINGLE_GRAPH, parallel)
    connect_cache(run, trainer, dataset, lambda line: None, lambda share: None)
    last_epoch, logits = parallel.from_first(0), None  # the first process resumes from its checkpoint
    if last_epoch > -trainer.method.requires.init_epochs:
        trainer.load_state(load_weights(run.folder.checkpoint, run.settings.hardware.device)["trainer"])
    try:
        for _, test_logits in _epochs(run, trainer, evaluator, last_epoch, lambda step, steps: None):
            logits = test_logits
        if logits is None:
            evaluator.test(trainer.inference_model, run.config["recipe"]["epochs"])
    finally:
        trainer.loader.close()


def _train(
    run: TrainingRun, tracking: Tracking, progress: Progress, capture: Capture, dataset: Dataset | None,
    parallel: Parallel = ALONE,
) -> None:  # fmt: skip
    provenance.record_fields()  # before the training, during which the working tree may change
    custom.add_all(run.config.get("networks", {}))
    dataset = load_dataset(run) if dataset is None else dataset
    trainer, evaluator = build_trainer(run, dataset, capture, parallel)
    with progress.cache_fill(run.name) as report_progress:
        announce = functools.partial(print, f"{run.name}:", flush=True)
        connect_cache(run, trainer, dataset, announce, report_progress)
    last_epoch, wall_s = _resume(run, trainer)
    parallel.from_first(last_epoch)
    progress.start(run.name, run.config["recipe"]["epochs"], last_epoch, run.kind)
    try:
        with tracking.run(
            folder=run.folder.path, name=run.name, group=f"{run.pair}/{run.method}/{run.identity}",
            job_type=run.config["role"], config=run.config, first_epoch=1 - trainer.method.requires.init_epochs,
            tags=[run.config["dataset"]["name"], run.config["profile"], run.pair, run.method],
        ) as tracked:  # fmt: skip
            logits, wall_s = _train_epochs(run, trainer, evaluator, tracked, progress, last_epoch, wall_s)
            measures = run.folder.metrics()[-1]
            if logits is None:  # a sealed test set, or a process killed between the last checkpoint and the result
                test_measures, logits = evaluator.test(trainer.inference_model, run.config["recipe"]["epochs"])
                measures |= test_measures
            _finish(run, trainer, dataset, logits, _record(run, trainer, measures, wall_s), tracked)
    finally:
        progress.stop()
        trainer.loader.close()


def _resume(run: TrainingRun, trainer: Trainer) -> tuple[int, float]:
    """Load the checkpoint, if there is a usable one. Return the last finished epoch, and the seconds spent so far."""
    folder = run.folder
    epoch, wall_s = -trainer.method.requires.init_epochs, 0.0  # an initialization stage ends with epoch 0
    for part in folder.path.glob("*.part"):  # left by a process that was killed while writing
        part.unlink()
    if folder.checkpoint.is_file():
        try:
            saved = _load_checkpoint(run, first_epoch=epoch + 1)
            if not trainer.fits(saved["trainer"]):
                raise DamagedFile(f"{folder.checkpoint} does not fit the networks and the method of this run")
            trainer.load_state(saved["trainer"])
            epoch, wall_s = saved["epoch"], saved["wall_s"]
        except DamagedFile as e:
            print(f"{run.name}: {e}; the run restarts", file=sys.stderr)
    if folder.status == RunStatus.DONE:
        print(f"{run.name}: {folder.record.problem or 'weights.pt is missing'}; the run restarts", file=sys.stderr)
    folder.write_config(run.config)
    folder.rewind(epoch)
    folder.set_status(RunStatus.RUNNING)
    return epoch, wall_s


def _load_checkpoint(run: TrainingRun, first_epoch: int) -> dict[str, Any]:
    """Load a run's checkpoint. Raises DamagedFile where training cannot continue from it."""
    folder = run.folder
    saved = load_weights(folder.checkpoint, run.settings.hardware.device)
    if saved.keys() - {"code"} != CHECKPOINT_KEYS:
        raise DamagedFile(f"{folder.checkpoint} is not the checkpoint of a run")
    if saved.get("code", run.code_version) != run.code_version:
        raise DamagedFile(f"its checkpoint was written by another version of {run.config['method']['name']}'s code")
    recorded = [line["epoch"] for line in folder.metrics() if line["epoch"] <= saved["epoch"]]
    if recorded != list(range(first_epoch, saved["epoch"] + 1)):
        raise DamagedFile(f"{folder.path / 'metrics.jsonl'} lacks epochs")
    return saved


def _train_epochs(
    run: TrainingRun, trainer: Trainer, evaluator: Evaluator, tracked: Tracked, progress: Progress, last_epoch: int,
    wall_s: float,
) -> tuple[Tensor | None, float]:  # fmt: skip
    """Train the epochs after `last_epoch`. Return the final test logits, and the seconds of the whole training.

    The logits are None where the last epoch was not evaluated on the test set by this call.
    """
    folder, epochs = run.folder, run.config["recipe"]["epochs"]
    logits, saving_s = None, 0.0
    started = saved_at = time.perf_counter()
    for line, test_logits in _epochs(run, trainer, evaluator, last_epoch, progress.step):
        logits = test_logits
        folder.append_metrics(line)
        tracked.on_epoch_end()
        progress.epoch(line)
        now = time.perf_counter()
        wall_s += now - started
        epoch = line["epoch"]
        if epoch == epochs or saving_s <= CHECKPOINT_SHARE * (now - saved_at):
            state = {"trainer": trainer.state(), "epoch": epoch, "wall_s": wall_s, "code": run.code_version}
            save(folder.checkpoint, state)
            saved_at = time.perf_counter()
            saving_s = saved_at - now
        started = time.perf_counter()
    return logits, wall_s


def _epochs(
    run: TrainingRun, trainer: Trainer, evaluator: Evaluator, last_epoch: int, on_step: Callable[[int, int], None]
) -> Iterator[tuple[dict[str, Any], Tensor | None]]:
    """Train and evaluate the epochs after `last_epoch`. Yield the metrics of each, and the latest test logits [N, C];
    None where there are none."""
    epochs, logits = run.config["recipe"]["epochs"], None
    for epoch in range(last_epoch + 1, epochs + 1):
        line = {"epoch": epoch, **trainer.epoch(epoch, on_step)}
        if (epochs - epoch) % run.settings.evaluate_every == 0:
            with trainer.watch("eval"):
                measures, logits = evaluator(trainer.inference_model, epoch)
            line |= measures
        line |= {f"{k}_s": v for k, v in trainer.watch.read().items()}
        yield line, logits


def _finish(
    run: TrainingRun, trainer: Trainer, dataset: Dataset, logits: Tensor, record: RunRecord, tracked: Tracked
) -> None:
    """Write the weights, the test outputs and, last, the result. Raises RuntimeError where the teacher has changed."""
    folder, teacher = run.folder, trainer.teacher_outputs.teacher
    if teacher is not None and content_hash(teacher.state_dict()) != run.config["teacher"]["sha256"]:
        raise RuntimeError(f"{run.method} changed its teacher")
    weights = {k: v.cpu() for k, v in trainer.trained_network.state_dict().items()}
    record = dataclasses.replace(record, sha256=content_hash(weights))
    save_outputs(folder, weights, logits, dataset.test.labels, dataset.class_names)
    if trainer.inference_model is not trainer.trained_network:
        save(folder.method_state, {k: v.cpu() for k, v in trainer.method.state_dict().items()})
    folder.write_record(record)
    test_summary = ("top1_last", "top1_best", "teacher_top1") if not record.is_sealed else ()
    summary = {k: getattr(record, k) for k in (*test_summary, "val_top1_last", "step_ms")}
    tracked.summary({k: v for k, v in summary.items() if v is not None})
    folder.set_status(RunStatus.DONE)
    (folder.path / store.ERROR_FILE).unlink(missing_ok=True)  # of an earlier attempt
    folder.checkpoint.unlink(missing_ok=True)


def _record(run: TrainingRun, trainer: Trainer, measures: Mapping[str, Any], wall_s: float) -> RunRecord:
    """The result of a trained run, without the hash of its weights. measures: of the last epoch, test set included."""
    config, lines, requires = run.config, run.folder.metrics(), trainer.method.requires
    sealed = "val_top1" in measures
    extra_parameters, extra_buffers = count_parameters(trainer.method)
    seconds = statistics.median(line["data_s"] + line["step_s"] for line in lines)  # of an epoch's steps
    images = trainer.loader.unaugmented(torch.arange(1))
    return RunRecord(
        status=RunStatus.DONE,
        role=config["role"],
        dataset=config["dataset"]["name"],
        network=run.network,
        **_pair_fields(run),
        seed=config["seed"],
        profile=config["profile"],
        recipe=run.settings.recipe,
        identity=run.identity,
        epochs=config["recipe"]["epochs"],
        evaluated_epochs=sum("val_top1" in line or "test_top1" in line for line in lines),
        top1_last=measures["test_top1"],
        top1_best=None if sealed else max(line["test_top1"] for line in lines if "test_top1" in line),
        top5_last=measures.get("test_top5"),
        val_top1_last=measures.get("val_top1"),
        val_top5_last=measures.get("val_top5"),
        agreement=measures.get("agreement"),
        correlation_distance=measures.get("correlation_distance"),
        wall_s=wall_s,
        step_ms=1000 * seconds / len(trainer.loader),
        parameters=count_parameters(trainer.network)[0],
        extra_parameters=extra_parameters,
        extra_buffers=extra_buffers,
        inference_parameters=inference_parameters(trainer.inference_model, images),
        init_epochs=requires.init_epochs,
        views=requires.views,
        precision=config["precision"],
        changed_settings=run.changed_settings,
        code_version=run.code_version,
        **provenance.record_fields(),
        versions=versions(),
        hardware=run.settings.hardware.describe(),
    )


def _pair_fields(run: TrainingRun) -> dict[str, Any]:
    """The fields of a student's record about its method and pair; none for a teacher."""
    if run.config["role"] == "teacher":
        return {}
    fields = {"student": run.network, "method": run.method, **{k: run.about[k] for k in ("title", "year", "family")}}
    if run.teacher_run is None:
        return fields
    teacher = RunFolder(run.settings.runs / run.teacher_run).record
    return fields | {
        "pair": run.pair,
        "teacher": run.config["teacher"]["network"],
        "teacher_top1": teacher.top1_last,
        "teacher_top5": teacher.top5_last,
        "teacher_sha256": run.config["teacher"]["sha256"],
        "teacher_run": run.teacher_run,
    }
