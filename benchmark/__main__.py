"""python -m benchmark [bench|plan|ablate|tune|speed|pairs|methods] [key=value …]

bench    train what is missing of the grid, then the table and the plots (the default)
plan     say what bench would do
ablate   vary options of a method over a grid of conf/ablation, or over <method>.<option>=a,b,c: train what is missing,
         then tables and plots; method=, grid=, train=none (say what would be done) or teacher, setting=<label>
tune     choose the weights of one method on the validation split: methods=clkd trials=20
speed    time a step of every method, against the student alone and against the field's usual loop
pairs    list the known pairs and the learning rate of their students
methods  list the methods with their papers, default options and costs, as Markdown
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, nearest, unwritable
from benchmark.grid.executors import stop
from benchmark.runs.folder import RunBusy


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status: 0, 1 where cells did not finish, 2 for bad input, 130 when stopped."""
    commands = {
        "bench": bench,
        "plan": show_plan,
        "ablate": ablate,
        "tune": tune,
        "speed": speed,
        "pairs": pairs,
        "methods": show_methods,
    }
    words = [a for a in arguments if "=" not in a]
    try:
        if any(w in ("-h", "--help", "help") for w in words):
            print(__doc__.strip())
            return 0
        if len(words) > 1:
            raise UserError(f"one command at a time, not {' '.join(words)}")
        for word in words:
            if word not in commands:
                raise UserError(f"unknown command {word!r}{nearest(word, commands)}")
        return commands[words[0] if words else "bench"]([a for a in arguments if "=" in a])
    except UserError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except RunBusy as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except OSError as e:  # of a folder that cannot be written to, or a full disk
        print(f"error: {unwritable(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        on = "begins anew" if words == ["speed"] else "goes on from the last finished epoch"
        print(f"\nstopped; the same command {on}", file=sys.stderr)
        return 130


def bench(overrides: list[str]) -> int:
    """Plan, train, tabulate."""
    from benchmark.config import compose as configs
    from benchmark.grid import plan as grid
    from benchmark.grid.executors import Processes
    from benchmark.runs.tracking import Tracking

    config = configs.load(overrides)
    plan = grid.plan(config, overrides)
    tracking = Tracking(config.tracker, plan.settings.runs)
    print(plan.text(), flush=True)
    if config.jobs == 1:
        outcomes = grid.run(plan, tracking)
    else:
        with Processes(config.jobs) as executor:
            outcomes = grid.run(plan, tracking, executor)
    skipped = [o for o in outcomes if o.status == "skipped"]
    unfinished = [o for o in outcomes if o.status not in ("done", "skipped")]
    drawn, stem = True, f"{plan.dataset.name}-{config.profile}"
    begun = [c for n in plan.teachers if plan.teachers[n].run.done for c in plan.students(n) if c.run.status]
    if any(c.run.done for c in begun):
        plots = bool(outcomes) or not any(Path(config.reports).glob(f"plots/{stem}-*"))
        drawn = _report(config, [c.pair for c in begun], [c.method for c in begun], plots=plots)
        if outcomes:
            files = sorted(p for p in Path(config.reports).glob("*/*") if p.stem.startswith(stem))
            tracking.publish(
                files, f"report {stem}", [plan.dataset.name, config.profile], {"overrides": list(overrides)}
            )
    for o in skipped:
        print(f"n/a: {o.name}: {o.reason}", file=sys.stderr)
    for o in unfinished:
        print(f"not finished: {o.name}: {o.status}{': ' + o.reason if o.reason else ''}", file=sys.stderr)
    if config.profile == "quick":
        print(f"The paper's protocol: make bench PAIR={','.join(config.pair)} PROFILE=paper")
    return 0 if drawn and not unfinished else 1


def _report(config: Any, pairs: list[str], methods: list[str], *, plots: bool) -> bool:
    """The table, and the plots, by a process of their own, so that training never depends on what draws; true where
    it went well."""
    what = ["table", "plots"] if plots else ["table"]
    chosen = [f"runs={config.runs}", f"reports={config.reports}"]
    # runs on a part of the training set have tables of their own
    profile = f"{config.profile}+validation" if config.dataset.validation else config.profile
    chosen += [f"dataset={config.dataset.name}", f"profile={profile}"]
    chosen += [f"pair={','.join(dict.fromkeys(pairs))}", f"method={','.join(dict.fromkeys(methods))}"]
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "analysis", *what, *chosen], check=False).returncode == 0


def show_plan(overrides: list[str]) -> int:
    """Print the plan."""
    from benchmark.config import compose as configs
    from benchmark.grid import plan as grid

    print(grid.plan(configs.load(overrides), overrides).text())
    return 0


def tune(overrides: list[str]) -> int:
    """Tune a method."""
    from benchmark.commands import tune

    return tune.run(overrides)


def ablate(overrides: list[str]) -> int:
    """Vary options of a method, train, tabulate."""
    from benchmark.commands import ablate

    return ablate.run(overrides)


def speed(overrides: list[str]) -> int:
    """Time the methods' steps."""
    from benchmark.commands import speed
    from benchmark.config import compose as configs

    if not any(o.startswith("profile=") for o in overrides):
        overrides = [*overrides, "profile=speed"]
    for path in speed.run(configs.load(overrides), overrides):
        print(f"written: {path}", file=sys.stderr)
    return 0


def pairs(overrides: list[str]) -> int:
    """Print the named lists of pairs."""
    from benchmark import networks
    from benchmark.config import compose as configs
    from benchmark.config.pairs import lists

    recipe = configs.load(overrides).recipe
    for name, members in lists().items():
        print(f"{name} (PAIR={name} runs them all)")
        for pair in members:
            student = networks.split_pair(pair)[1]
            rate = recipe.lr or (recipe.lr_light if networks.is_light(student) else recipe.lr_default)
            print(f"  {pair:<24} student's learning rate {rate:g}")
    print(f"networks (any two make a pair)\n  {' '.join(networks.names())}")
    return 0


def show_methods(overrides: list[str]) -> int:
    """Print the list of methods."""
    from benchmark.commands import methods as catalogue

    print(catalogue.markdown(), end="")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main(sys.argv[1:]))
