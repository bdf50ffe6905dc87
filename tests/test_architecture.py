"""Imports between the rooms run one way, and no two files import each other, as docs/architecture.md says."""

import ast
from graphlib import TopologicalSorter

import pytest

from tests.conftest import ROOT

ROOMS = ("benchmark", "methods", "analysis")
FORBIDDEN = {"methods": ("benchmark", "analysis"), "benchmark": ("analysis",), "analysis": ("methods",)}
ANALYSIS_READS = (
    "config",
    "console",
    "errors",
    "progress",
    "runs",
    "statistics",
    "tables",
)  # parts of benchmark that train nothing


def import_graph() -> dict[str, set[str]]:
    """Return the modules of the rooms that each module imports when it is imported itself."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    graph = {}
    for module, path in paths.items():
        imported = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                imported |= {name if name in paths else node.module or "" for name in names}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        graph[module] = (imported & paths.keys()) - {module}
    return graph


GRAPH = import_graph()


def test_there_is_no_cycle_between_files():
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(GRAPH)  # raises CycleError


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_room_above_it(room):
    imports = {(a, b) for a, imported in GRAPH.items() for b in imported if a.split(".")[0] == room}
    assert not {(a, b) for a, b in imports if b.split(".")[0] in FORBIDDEN[room]}


def test_analysis_reads_runs_and_trains_nothing():
    imported = {b for a, imports in GRAPH.items() for b in imports if a.startswith("analysis")}
    assert {b.split(".")[1] for b in imported if b.startswith("benchmark.")} <= set(ANALYSIS_READS)
