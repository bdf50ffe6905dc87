"""The help text: commands, the keys of `conf/` with their comments, and the Makefile's variables. No torch here."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmark.config import files

SHARED = (
    "config",
    "recipe/cifar",
    "recipe/imagenet",
    "recipe/imagenet_vit",
    "tracker/wandb",
    "dataset/cifar100",
    "dataset/imagenet",
    "executor/slurm",
    "executor/ray",
)  # files with the keys of every training command; of a key of several recipes or data sets the first default is shown
GROUPS = ("profile", "dataset", "recipe", "tracker", "executor")
VARIABLES = {  # of the Makefile, and the key that each of them sets
    "PAIR": "pair", "METHODS": "methods, of the analysis commands method", "SEEDS": "seeds", "PROFILE": "profile",
    "DATASET": "dataset", "DATA": "data", "RUNS": "runs", "JOBS": "jobs", "NAME": "selection",
    "FROM": "from of transfer, the folder of all runs", "TO": "to of transfer",
    "METHOD": "method of ablate, methods of tune", "GRID": "grid", "TRIALS": "trials", "WHERE": "where",
    "LIST": "list", "PROBE": "probe", "PAIRWISE": "pairwise", "ARGS": "any further words",
}  # fmt: skip
KEY = re.compile(r"( *)(\w+):(?: ([^#]+?))?(?: +# (.*))?")  # a line of the subset of YAML that conf/ uses


def yaml_keys(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield dotted key, value and comment of each key of a YAML file with one key per line, nested by indentation."""
    parents = [(-1, "")]
    for line in path.read_text(encoding="utf-8").splitlines():
        match = KEY.fullmatch(line)
        if match is None or match[2] == "defaults":
            continue
        indent = len(match[1])
        while parents[-1][0] >= indent:
            parents.pop()
        key = f"{parents[-1][1]}{match[2]}"
        if match[3] is None:
            parents.append((indent, f"{key}."))
        else:
            yield key, match[3], match[4] or ""


def usage(training: Mapping[str, str], analysis: Mapping[str, str]) -> str:
    """Return the help text. training, analysis: the commands with what each of them does."""
    commands = {**training, **analysis}
    parts = [
        "usage: kd-benchmark <command> [key=value …]\n       kd-benchmark [key=value …], which is bench",
        "\n".join(f"  {name:<10} {text}" for name, text in commands.items()),
        "Named settings, files of conf/:\n" + "\n".join(f"  {g}={'|'.join(files.group_names(g))}" for g in GROUPS),
        "Keys of the training commands, with their defaults before a profile:\n" + _shared_lines(),
    ]
    named = {name: name for name in commands if (files.CONF / f"{name}.yaml").is_file()}
    named |= {"analysis": ", ".join(name for name in analysis if name not in named)}
    parts += [f"Keys of {title}:\n{_lines(name)}" for name, title in named.items()]
    parts.append(
        "Options of methods: <method>.<option>=value, as in kd.temperature=2; `kd-benchmark methods` lists them."
    )
    variables = "\n".join(f"  {name:<10} {keys}" for name, keys in VARIABLES.items())
    parts.append(f"Variables of make, as in make bench PAIR=resnet20-resnet8 SEEDS=0-4, and their keys:\n{variables}")
    return "\n\n".join(parts)


def _lines(name: str) -> str:
    return "\n".join(_line_by_key(name).values())


def _shared_lines() -> str:
    """Return the lines of `SHARED`; of recipes and data sets each key once."""
    lines: list[str] = []
    shown: set[str] = set()
    for name in SHARED:
        of_file = _line_by_key(name)
        lines += [line for key, line in of_file.items() if key not in shown]
        shown |= {key for key in of_file if not name.startswith("executor/")}
    return "\n".join(lines)


def _line_by_key(name: str) -> dict[str, str]:
    group, _, file = name.partition("/")
    prefix = f"{group}." if file else ""
    keys = yaml_keys(files.CONF / f"{name}.yaml")
    return {f"{prefix}{key}": f"  {f'{prefix}{key}={value}':<28}  {comment}" for key, value, comment in keys}
