"""`transfer`: a linear probe of finished students on other data sets, then a table."""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands.bench import run_analysis
from benchmark.commands.finished_students import chosen_students, reason_unusable
from benchmark.config.command_options import load_transfer
from benchmark.config.schema import TransferOptions
from benchmark.errors import UserError
from benchmark.grid.executors import Processes
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import RunStatus
from benchmark.tables.cells import counted
from benchmark.training.hardware import Hardware, visible_gpus
from benchmark.transfer.run import Probe, ProbeOutcome, execute_all

STUDENT = "ce"  # the student alone, with which tables compare


def run(words: Sequence[str]) -> int:
    """Probe the chosen students on the targets and print the table; return the exit status: 1 where a probe failed."""
    options, targets = load_transfer(words)
    hardware = Hardware.resolve(options.device, options.threads, options.jobs, compiled=False, graphs=False)
    folders = _folders(options)
    probes = [Probe(folder.path, target, options, hardware) for target in targets for folder in folders]
    outcomes = _execute(probes, options, hardware)
    done_before = sum(outcome.was_done for outcome in outcomes)
    failed = [outcome for outcome in outcomes if outcome.status != RunStatus.DONE]
    print(f"{counted(len(outcomes), 'probe')}: {done_before} done before, {len(failed)} not finished", flush=True)
    for outcome in failed:
        print(f"not finished: {outcome.name}: {outcome.reason}", file=sys.stderr)
    reported = len(failed) == len(outcomes) or run_analysis(_arguments(options)) == 0
    return 0 if reported and not failed else 1


def _folders(options: TransferOptions) -> list[RunFolder]:
    """Return the runs to probe: the chosen students, then their teachers.

    Names those without weights on standard error. Raises UserError where no student is left.
    """
    students, unusable = chosen_students(options, always=[STUDENT])
    teachers = dict.fromkeys(name for folder in students if (name := folder.record.teacher_run))
    of_teachers = [RunFolder(Path(options.runs) / name) for name in teachers] if options.teachers else []
    for folder in (*unusable, *(folder for folder in of_teachers if not folder.done)):
        print(f"not probed: {folder.path}: {reason_unusable(folder)}", file=sys.stderr)
    if not students:
        raise UserError(
            f"no finished runs with weights in {options.runs} pass the filters: see `kd-benchmark table runs=…`"
        )
    return [*students, *(folder for folder in of_teachers if folder.done)]


def _execute(probes: Sequence[Probe], options: TransferOptions, hardware: Hardware) -> list[ProbeOutcome]:
    """Execute the probes in this process, or a share of them in each of `jobs` processes, and as many on each GPU."""
    gpus = visible_gpus(hardware.device)
    places = min(options.jobs * max(len(gpus), 1), len(probes))
    if places < 2:
        return execute_all(probes)
    with Processes(options.jobs, gpus if len(gpus) > 1 else ()) as executor:
        futures = [executor.submit(execute_all, probes[i::places], True) for i in range(places)]
        return [outcome for future in futures for outcome in future.result()]


def _arguments(options: TransferOptions) -> list[str]:
    """Return the arguments of `python -m analysis` that show all probes of these students."""
    filters = {key: getattr(options, key) for key in ("dataset", "profile", "pair", "method", "identity")}
    words = [f"{key}={','.join(names)}" for key, names in filters.items() if names]
    return ["transfer", f"runs={options.runs}", f"reports={options.reports}", *words]
