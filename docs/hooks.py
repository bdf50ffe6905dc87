"""MkDocs hooks that write the generated parts of the pages, so that these cannot go stale.

A line `<!-- generated: <name> <argument> -->` in a page is replaced by the Markdown of a function below.
"""

import ast
import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # MkDocs imports this file with its own folder as the path
MARK = re.compile(r"^<!-- generated: (\w+)(?: (\S+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marks of a page; called by MkDocs for every page."""
    return MARK.sub(lambda mark: PARTS[mark[1]](*filter(None, mark.groups()[1:])), markdown)


@cache
def method_table() -> str:
    """Return the table that `make methods` prints."""
    from benchmark.commands.methods import markdown

    return markdown()


def yaml_keys(path: str) -> str:
    """Return a table of the keys of a YAML file below the root: key, value and the comment beside it."""
    from benchmark import usage

    rows = (f"| `{key}` | `{value}` | {_cell(comment)} |" for key, value, comment in usage.yaml_keys(ROOT / path))
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def fields(path: str) -> str:
    """Return a table of the fields of the dataclass `<module path>:<class>`: key on disk, type and comment.

    The module is parsed, not imported; its mapping NAMES_ON_DISK, where there is one, gives the keys that differ from
    the names of the fields.
    """
    module, name = path.split(":")
    source = (ROOT / module).read_text()
    tree, text = ast.parse(source), source.splitlines()
    names = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    on_disk = ast.literal_eval(names["NAMES_ON_DISK"]) if "NAMES_ON_DISK" in names else {}
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    rows = ["| key | type | meaning |", "|---|---|---|"]
    for node in cls.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        comment = text[node.lineno - 1][node.end_col_offset :].partition("#")[2].strip()
        if "not persisted" in comment:
            continue
        kind = ast.unparse(node.annotation).removesuffix(" | None")
        rows.append(f"| `{on_disk.get(node.target.id, node.target.id)}` | `{kind}` | {_cell(comment)} |")
    return "\n".join(rows)


def pair_lists() -> str:
    """Return the named lists of pairs in `conf/pairs`."""
    from benchmark.config.pairs import lists

    return "\n".join(f"- `{name}` ({len(pairs)}): {', '.join(pairs)}" for name, pairs in lists().items())


def results_table(runs: str) -> str:
    """Return the tables of the runs in a folder below the root, as `make table RUNS=<runs>` prints them."""
    from analysis.__main__ import run

    with tempfile.TemporaryDirectory() as reports, contextlib.redirect_stdout(io.StringIO()):
        written = run(["table", f"runs={ROOT / runs}", f"reports={reports}"])
        tables = [path for path in written if path.suffix == ".md" and not path.stem.endswith("-significance")]
        return "\n\n".join(path.read_text() for path in tables)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


PARTS: dict[str, Callable[..., str]] = {
    "method_table": method_table,
    "yaml_keys": yaml_keys,
    "fields": fields,
    "pair_lists": pair_lists,
    "results_table": results_table,
}
