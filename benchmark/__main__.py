"""The command line: `kd-benchmark [command] [key=value …]`, or `python -m benchmark`; without a word the help."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from benchmark.console import protect_streams
from benchmark.errors import UserError, describe_os_error, nearest
from benchmark.interruption import stop
from benchmark.runs.folder import RunBusy
from benchmark.usage import usage

INTERRUPTED = 130  # exit status, as of a shell after Ctrl-C
TRAINING = {  # modules of benchmark.commands
    "bench": "train the missing runs of a grid, then make tables and plots (the default)",
    "plan": "print what bench would do",
    "ablate": "vary options of a method, train the missing runs, then make tables and plots: method=clkd grid=…",
    "tune": "choose the weights of a method on the validation split: methods=clkd trials=20",
    "speed": "time a training step of every method, of the student alone and of the reference loop",
    "export": "write finished students as safetensors and ONNX with a model card: pair=… method=… or run=<folder>",
    "transfer": "linear probe of finished students on other data sets, then a table: from=runs to=stl10,tinyimagenet",
    "sync": "record the runs whose tracking failed, and upload the W&B runs that were recorded offline",
    "pairs": "list the pairs and the learning rates of their students",
    "methods": "list the methods with their papers, default options and costs, as Markdown",
}
ANALYSIS = {  # commands of `python -m analysis`, which is never imported here
    "table": "tables of all finished runs",
    "plots": "learning curves, class correlations and critical differences",
    "structure": "fidelity of the students to their teacher: agreement, class structure",
    "report": "one HTML page with tables and plots",
    "ablation": "tables and plots of what `ablate` trained",
    "drop": "move the runs that pass the filters to a trash folder: method=kd where=method.temperature=2",
    "restore": "move all dropped runs back",
    "scale": "time the tables of generated run folders",
    "simulate": "false marks and power of the significance tests, on simulated runs",
}


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status: 0, 1 for unfinished runs, 2 for bad input, 130 for an interruption."""
    names = [a for a in arguments if "=" not in a]
    command = names[0] if names else "bench"
    try:
        if not arguments or any(name in ("-h", "--help", "help") for name in names):
            print(usage(TRAINING, ANALYSIS))
            return 0
        for name in names:
            if name not in {**TRAINING, **ANALYSIS}:
                raise UserError(f"unknown command {name!r}{nearest(name, {**TRAINING, **ANALYSIS})}")
        if command in ANALYSIS:
            _become_analysis(arguments)
        if len(names) > 1:
            raise UserError(f"one command at a time, not {' '.join(names)}")
        return importlib.import_module(f"benchmark.commands.{command}").run([a for a in arguments if "=" in a])
    except UserError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except RunBusy as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except OSError as e:  # a folder that is not writable, or a full disk
        print(f"error: {describe_os_error(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:
        if e.args:  # of an executor whose runs go on
            print(f"\n{e}", file=sys.stderr)
            return INTERRUPTED
        effect = {"speed": "starts again", "transfer": "continues with the missing features"}
        continues = effect.get(command, "continues after the last finished epoch")
        print(f"\nstopped; the same command {continues}", file=sys.stderr)
        return INTERRUPTED


def run_from_shell() -> NoReturn:
    """Run the command of this process's arguments and exit with its status; SIGTERM counts as Ctrl-C."""
    signal.signal(signal.SIGTERM, stop)
    protect_streams()
    status = main(sys.argv[1:])
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # native threads that the interruption left running can abort an orderly end
    sys.exit(status)


def _become_analysis(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `python -m analysis`."""
    os.execv(sys.executable, [sys.executable, "-m", "analysis", *arguments])


if __name__ == "__main__":
    run_from_shell()
