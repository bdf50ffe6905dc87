"""Give the commands mistaken input and check how they refuse it: `make fuzz`.

Five kinds of input are damaged at random: command lines, YAML files of methods, data files, checkpoints, run
folders.
Each case runs one command in a forked process. It must end with status 0, 1 or 2 within a minute and without a
traceback; status 2 comes with one line that begins with "error:"; a plan leaves nothing behind, and no command leaves
a half-written file. A case is repeated by its kind and number: `make fuzz ARGS="--kind data --first 17 --cases 1"`.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a forked process has no thread pool

import torch

from analysis.__main__ import main as analysis_main
from benchmark import networks
from benchmark.__main__ import main as benchmark_main
from benchmark.config import files
from tests.analysis.conftest import Tree, fill
from tests.conftest import write_tiny

SECONDS = 60  # after which a command counts as hanging
TOKENS = (
    "", "0", "-1", "1e308", "nan", "null", "true", "[]", "{}", "[[1]]", "${x}", "${scaled:1}", "'", '"', ",", "=", "é",
    "\x00", "../x", "a b", "9" * 30, "kd", "crd+kd", "1,2", "{", "&a [*a]", "!!python/object:os.system x", "- a", ": 3",
)  # fmt: skip
PLAN = (
    "plan", "pair=resnet8-resnet8", "methods=kd", "seeds=0", "profile=quick", "dataset=npz", "dataset.file=tiny.npz",
    "data=data", "recipe.epochs=2", "recipe.batch_size=16", "teacher.min_top1=0", "precision=fp32", "threads=1",
    "tracker.mode=off",
)  # fmt: skip
KEYS = (
    "recipe.lr", "recipe.epochs", "recipe.batch_size", "recipe.milestones", "dataset.size", "dataset.train_size",
    "dataset.validation", "dataset.mean", "kd.temperature", "kd.ce_weight", "methods", "pair", "seeds", "jobs",
    "threads", "precision", "teacher.checkpoint", "teacher.train_size", "evaluate_every", "profile", "device",
    "tracker", "runs",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command in a folder. is_plan: it must write nothing."""

    main: Callable[[list[str]], int]
    words: list[str]
    is_plan: bool = True


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return content with one to four random changes: bits, cuts, repetitions, insertions."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, place + rng.choice([1, 8, 64, len(data)]))
        change = rng.randrange(5)
        if change == 0 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif change == 1:
            del data[place:end]
        elif change == 2:
            data[place:place] = data[place:end]
        elif change == 3:
            data[place:place] = rng.choice(TOKENS).encode()
        elif data:
            data[place:end] = rng.randbytes(end - place)
    return bytes(data)


def damage_file(path: Path, rng: random.Random) -> None:
    """Damage a file, or put something else in its place."""
    if rng.random() < 0.9:
        path.write_bytes(damage(path.read_bytes(), rng))
        return
    path.unlink()
    rng.choice([os.mkfifo, os.mkdir, lambda p: os.symlink(p.name, p), lambda p: None])(path)


def command_line(folder: Path, rng: random.Random) -> Case:
    """A plan with damaged, added or repeated words."""
    write_tiny(folder / "data" / "tiny.npz")
    words = list(PLAN)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(1, len(words))
        change = rng.randrange(3)
        if change == 0:
            words[place] = damage(words[place].encode(), rng).decode(errors="surrogateescape")
        elif change == 1:
            words.append(f"{rng.choice(KEYS)}={rng.choice(TOKENS)}")
        else:
            words.append(words[place])
    return Case(benchmark_main, [word.replace("\0", "") for word in words])  # no argument of a process holds a null


def method_file(folder: Path, rng: random.Random) -> Case:
    """A plan of a method whose YAML is damaged."""
    write_tiny(folder / "data" / "tiny.npz")
    shutil.copytree(files.CONF, folder / "conf")
    name = rng.choice(["kd", "clkd", "crd_kd", "fitnet", "ctkd", "mlld"])
    path = folder / "conf" / "method" / "mine.yaml"
    path.write_text((folder / "conf" / "method" / f"{name}.yaml").read_text().replace(f"name: {name}", "name: mine", 1))
    damage_file(path, rng)
    return Case(benchmark_main, [*PLAN, "methods=mine"])


def data_file(folder: Path, rng: random.Random) -> Case:
    """A plan on a damaged .npz file."""
    write_tiny(folder / "data" / "tiny.npz")
    damage_file(folder / "data" / "tiny.npz", rng)
    return Case(benchmark_main, list(PLAN))


def checkpoint(folder: Path, rng: random.Random) -> Case:
    """A plan with a damaged checkpoint of a teacher."""
    write_tiny(folder / "data" / "tiny.npz")
    network = networks.build("resnet8", 6)
    torch.save(
        {"model": network.state_dict()}, folder / "teacher.pth", _use_new_zipfile_serialization=rng.random() < 0.5
    )
    damage_file(folder / "teacher.pth", rng)
    return Case(benchmark_main, [*PLAN, "teacher.checkpoint=teacher.pth"], is_plan=False)


def run_folder(folder: Path, rng: random.Random) -> Case:
    """Tables of runs of which some have damaged files."""
    fill(Tree(folder / "runs"))
    paths = sorted(path for path in (folder / "runs").rglob("*") if path.is_file())
    for path in rng.sample(paths, rng.randint(1, 4)):
        damage_file(path, rng)
    return Case(analysis_main, ["table", "structure", "runs=runs", "reports=reports"], is_plan=False)


KINDS = {"command": command_line, "method": method_file, "data": data_file, "checkpoint": checkpoint, "run": run_folder}


def problem(folder: Path, kind: str, number: int) -> str | None:
    """Run a case in a new folder; return what is wrong with its end, None where nothing is."""
    (folder / "data").mkdir(parents=True)
    case = KINDS[kind](folder, random.Random(f"{kind} {number}"))
    before = set(folder.rglob("*"))
    if (process := os.fork()) == 0:
        _run(case, folder)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    errors = (folder / "stderr").read_text(errors="replace")
    written = {path for path in folder.rglob("*") if path.name not in ("stdout", "stderr")} - before
    return _end_problem(status, errors) or _file_problem(case, written)


def _end_problem(status: int, errors: str) -> str | None:
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    if status == -signal.SIGALRM:
        return f"no end after {SECONDS} s"
    if status not in (0, 1, 2) or "Traceback" in errors:
        return f"status {status}: {errors[-800:]}"
    if status == 2 and len(lines) != 1:
        return f"status 2 with {len(lines)} lines of error: {errors[-800:]}"
    return None


def _file_problem(case: Case, written: set[Path]) -> str | None:
    partial = [path for path in written if path.suffix == ".part"]
    if partial or (case.is_plan and written):
        return f"left behind: {', '.join(map(str, sorted(partial or written)))}"
    return None


def _run(case: Case, folder: Path) -> NoReturn:
    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
        setattr(sys, name, open(descriptor, "w", errors="backslashreplace"))  # noqa: SIM115, the process ends by itself
    if (folder / "conf").is_dir():
        files.CONF = folder / "conf"
    signal.alarm(SECONDS)
    status = 3  # of an exception, whose traceback is printed below
    try:
        status = case.main(case.words)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def campaign(folder: Path, kinds: list[str], first: int, cases: int) -> list[str]:
    """Run `cases` cases of each kind, counted from `first`; return one text for each that failed."""
    failures = []
    for kind in kinds:
        for number in range(first, first + cases):
            place = folder / f"{kind}-{number}"
            if text := problem(place, kind, number):
                failures.append(f"--kind {kind} --first {number}: {text}")
            else:
                shutil.rmtree(place)
    return failures


def main() -> int:
    """Run the cases of the command line; return 1 where one failed."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--kind", choices=KINDS, help="one kind; by default all")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of a kind")
    parser.add_argument("--cases", type=int, default=600, help="cases of each kind")
    options = parser.parse_args()
    kinds = [options.kind] if options.kind else list(KINDS)
    failures = campaign(Path(tempfile.mkdtemp(prefix="fuzz-")), kinds, options.first, options.cases)
    print(f"{len(kinds) * options.cases} cases, {len(failures)} failed", *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
