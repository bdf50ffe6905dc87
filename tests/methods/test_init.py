"""Finding methods by name, and the version of their code."""

import ast
import json
import linecache
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import methods

PACKAGE = Path(methods.__path__[0])


@pytest.fixture
def load_copy(tmp_path, monkeypatch):
    """load_copy(name, change): the code version of methods/<name>.py after a change of its text."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])

    def version(name, change):
        (tmp_path / "custom.py").write_text(change((PACKAGE / f"{name}.py").read_text()))
        sys.modules.pop("methods.custom", None)
        linecache.clearcache()
        return methods.code_version("custom")

    yield version
    sys.modules.pop("methods.custom", None)


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError, match="kdd"):
        methods.load("kdd")
    with pytest.raises(KeyError, match="losses"):
        methods.load("losses")


def test_a_file_must_define_exactly_one_method(load_copy):
    with pytest.raises(TypeError, match=r"custom\.py must define exactly one Method, not 2"):
        load_copy("kd", lambda source: source + "\n\nclass Second(KD):\n    pass\n")


def test_the_code_version_depends_on_statements_alone(load_copy):
    unchanged = load_copy("kd", lambda source: source)
    assert len(unchanged) == 12
    assert load_copy("kd", lambda source: source.replace("class KD", "# a comment\nclass KD")) == unchanged
    assert load_copy("kd", lambda source: source.replace("Hinton", "Someone")) == unchanged  # docstring, PROVENANCE
    assert load_copy("kd", lambda source: source.replace("RepDistiller", "Elsewhere")) == unchanged
    assert load_copy("kd", lambda source: source.replace('"kd": Term(', '"kd": Term(2 * ')) != unchanged


def test_the_normal_form_of_code_is_that_of_every_python_version():
    code = 'def f(x):\n    """Prose."""\n    return f"{x:{2}}"  # a comment\n'
    spec = "JoinedStr(values=[FormattedValue(value=Constant(value=2), conversion=-1)])"
    text = f"FormattedValue(value=Name(id='x', ctx=Load()), conversion=-1, format_spec={spec})"
    arguments = "arguments(args=[arg(arg='x')])"
    assert methods.code_without_prose(code) == (
        f"Module(body=[FunctionDef(name='f', args={arguments}, body=[Pass(), "
        f"Return(value=JoinedStr(values=[{text}]))])])"
    )


def test_the_code_version_is_that_of_the_imported_code(load_copy, tmp_path):
    version = load_copy("kd", lambda source: source)
    (tmp_path / "custom.py").write_text("edited = True\n")
    linecache.clearcache()
    assert methods.code_version("custom") == version


def test_the_version_of_a_combination_covers_its_parts():
    versions = {methods.code_version(name) for name in ("crd+kd", "crd", "kd", "fitnet+kd")}
    assert len(versions) == 4


def imports(name):
    """Return the modules of the package that a module imports directly."""
    nodes = list(ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())))
    modules = {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    names = {a.name for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "methods" for a in n.names}
    return names | {m.removeprefix("methods.") for m in modules if m.startswith("methods.")}


def test_a_change_of_a_shared_module_changes_the_version_of_every_method_that_imports_it(tmp_path):
    names = [*methods.available(), "crd+kd"]
    before = {name: methods.code_version(name) for name in names}
    shutil.copytree(PACKAGE, tmp_path / "methods", ignore=shutil.ignore_patterns("__pycache__"))
    losses = tmp_path / "methods" / "losses.py"
    losses.write_text(losses.read_text() + "\n\nADDED = 1\n")
    code = f"import json, methods; print(json.dumps({{n: methods.code_version(n) for n in {names}}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    after = json.loads(result.stdout)
    changed = {name for name in names if after[name] != before[name]}
    direct = {name for name in methods.available() if "losses" in imports(name)}
    indirect = {name for name in methods.available() if imports(name) & direct}
    assert changed == direct | indirect | {"crd+kd"}
    assert "dot" in indirect - direct  # by way of kd
    assert changed != set(names)  # cskd imports no shared loss
