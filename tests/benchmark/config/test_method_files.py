"""Mistakes in a method's YAML and Python files: one line that names the file and what would be right."""

import shutil
import sys

import pytest

import methods
from benchmark.__main__ import main
from benchmark.config import files
from benchmark.config.compose import load_method
from benchmark.errors import UserError

PAIR = "resnet20-resnet8"
KD = (files.CONF / "method" / "kd.yaml").read_text()
YAML = KD.partition("datasets:")[0].replace("name: kd", "name: mine", 1)
CODE = """
from dataclasses import dataclass
from methods.contract import Method
from methods.options import loss_weight

@dataclass
class Options:
    kd_weight: float = loss_weight()

class Mine(Method):
    Options = Options
"""
ABOUT = "about: { title: Mine, year: 2026, family: logits }\n"
OWN = f"name: mine\nimplementation: mine\n{ABOUT}kd_weight: 1.0\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes conf/method/mine.yaml, and methods/mine.py where there is code for it."""
    shutil.copytree(files.CONF, tmp_path / "conf")
    (tmp_path / "methods").mkdir()
    monkeypatch.setattr(files, "CONF", tmp_path / "conf")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])

    def written(text: str, code: str | None = None) -> None:
        (tmp_path / "conf" / "method" / "mine.yaml").write_text(text)
        if code is not None:
            (tmp_path / "methods" / "mine.py").write_text(code)
            monkeypatch.delitem(sys.modules, "methods.mine", raising=False)

    return written


def error_message() -> str:
    with pytest.raises(UserError) as e:
        load_method("mine", PAIR, [])
    assert "\n" not in str(e.value)
    return str(e.value)


def test_optional_fields_are_null(write):
    write(OWN, CODE)
    method = load_method("mine", PAIR, [])
    assert method.about["title"] == "Mine" and method.about["paper"] is None
    assert method.options.kd_weight == 1.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("implementation: kd", "implementation: kdd"), "there is no methods/kdd.py; did you mean kd"),
        (("implementation: kd", "implementation: crd+kdd"), "there is no methods/kdd.py; did you mean kd"),
        (("implementation: kd", "implementation: kd+"), "there is no methods/.py; known: "),
        (("implementation: kd", "implementation: kd+kd"), "names a method twice"),
        (("implementation: kd", "implementation: [kd]"), "it names no implementation; add implementation: "),
        (("implementation: kd", "#"), "it names no implementation; add implementation: "),
        (("name: mine", "name: other"), "its name is 'other'; it must be that of the file: name: mine"),
        (("name: mine", "#"), "its name is None"),
        (("family: logits", "family: logitz"), "unknown family 'logitz'; did you mean logits"),
        (("  title: KD", "  titel: KD"), "about: unknown key 'titel'; did you mean title"),
        (("  title: KD", "  title: 5"), "about: title must be a text, and year a whole number or null"),
        (("year: 2015", "year: abc"), "about: title must be a text, and year a whole number or null"),
        (("  title: KD", "  #"), "about lacks title; it needs title, year, family"),
        (("temperature: 4.0", "temprature: 4.0"), "there is no option temprature; did you mean temperature"),
        (("temperature: 4.0", "#"), "the option temperature is missing; add temperature: "),
        (("temperature: 4.0", "temperature: ${foo}"), "Interpolation key 'foo' not found"),
    ],
)
def test_a_mistake_in_the_yaml(write, change, expected):
    assert change[0] in YAML
    write(YAML.replace(*change, 1))
    message = error_message()
    assert message.startswith("conf/method/mine.yaml: ") and expected in message


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("pairs: { resnet20-resnet8: { temprature: 3 } }", "resnet20-resnet8 has no option 'temprature'; did you mean"),
        ("pairs: { resnet56-resnet20: { temprature: 3 } }", "resnet56-resnet20 has no option 'temprature'"),
        ("pairs: { resnet2-resnet8: { temperature: 3 } }", "pairs: network 'resnet2': the depth must be 6n+2"),
        ("pairs: { ResNet20-resnet8: { temperature: 3 } }", "is not the name of a pair; write resnet20-resnet8"),
        ("pairs: { resnet20-resnet8: }", "resnet20-resnet8 needs {<option>: <value>}, not None"),
        ("pairs: { 5: { temperature: 3 } }", "pairs: 5 is not the name of a pair; write <teacher>-<student>"),
        ("datasets: { 5: { temperature: 3 } }", "datasets: unknown data set 5; known: cifar10"),
        ("datasets: { digits: { 5: 3 } }", "datasets: digits has no option 5; known: "),
        ("5: 3", "there is no option 5; known: ce_weight"),
        ("pairs: { resnet20-resnet8: { temperature: '${no:1}' } }", "Unsupported interpolation type no"),
        ("pairs: [a]", "pairs needs {<name>: {<option>: <value>}}, not ['a']"),
        ("datasets: { cifar: { temperature: 3 } }", "unknown data set 'cifar'; did you mean cifar10"),
        (
            "datasets: { imagenet: { pairs: { resnet20-resnet8: { temprature: 3 } } } }",
            "datasets: imagenet: pairs: resnet20-resnet8 has no option 'temprature'; did you mean",
        ),
        (
            "datasets: { imagenet: { pairs: { resnet2-resnet8: { temperature: 3 } } } }",
            "datasets: imagenet: pairs: network 'resnet2': the depth must be 6n+2",
        ),
        ("datasets: { imagenet: { pairs: [a] } }", "datasets: imagenet: pairs needs {<name>: {<option>: <value>}}"),
        ("pairs: { resnet20-resnet8: { pairs: {} } }", "resnet20-resnet8 has no option 'pairs'"),
        (
            "datasets: { imagenet: { recipe: { epochs: 3 } } }",
            "datasets: imagenet: recipe needs {batch_size: <number>, lr: <number>}",
        ),
        ("pairs: { resnet20-resnet8: { recipe: 3 } }", "resnet20-resnet8: recipe needs {batch_size: <number>"),
        (
            "datasets: { imagenet: { recipe: { lr: -1 } } }",
            "datasets: imagenet: recipe has {'lr': -1}: its values are numbers above 0",
        ),
        ("tune: [1]", "tune needs {<option>: <range>}, not [1]"),
    ],
)
def test_a_mistake_in_the_values_of_pairs_and_data_sets(write, more, expected):
    write(f"{YAML}{more}\n")
    message = error_message()
    assert message.startswith("conf/method/mine.yaml: ") and expected in message


def test_a_mistake_in_a_combination(write):
    write(f"defaults: [crd@crd, _self_]\nname: mine\nimplementation: crd+kd\n{ABOUT}")
    assert "the options of kd are missing; add kd@kd to its defaults" in error_message()
    write(f"defaults: [crd@crd, kd@kd, _self_]\nname: mine\nimplementation: crd+kd\n{ABOUT}kd: {{ temprature: 1 }}\n")
    assert "there is no option kd.temprature; did you mean temperature" in error_message()
    write(f"defaults: [crd@crd, kd@kd, _self_]\nname: mine\nimplementation: crd+dot\n{ABOUT}")
    assert "dot cannot be combined with other methods: it overrides optimizer_step" in error_message()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: 'mine\n", "a file of conf/ is no YAML: while scanning a quoted scalar"),
        ("\tname: mine\n", "character '\\t' that cannot start any token"),
        ("- a\n", "config 'method/mine' must be a DictConfig, got ListConfig"),
        ("defaults: [kdd, _self_]\n", "In 'method/mine': Could not load 'method/kdd'."),
        ("", "its name is None"),
        ("defaults: 3\n", "conf/method/mine.yaml cannot be composed: "),
        ("defaults: [mine, _self_]\n", "conf/method/mine.yaml: its defaults lead back to it: mine, mine"),
        ("name: &a [*a]\n", "conf/method/mine.yaml, or a file in its defaults, refers to itself"),
        ("about: &a { title: *a }\n", "refers to itself"),
        ("hello\n", "its name is None"),
        ("name: mine\nimplementation: kd\nabout: Mine\n", "about is missing; it needs title, year, family"),
    ],
)
def test_files_that_are_no_yaml_of_a_method(write, text, expected):
    write(text)
    assert expected in error_message() and "mine" in error_message()


def test_a_file_that_is_not_utf_8_is_named(write, tmp_path):
    write("")
    (tmp_path / "conf" / "method" / "mine.yaml").write_bytes(b"name: mine\nabout: \xff\n")
    assert error_message().startswith("conf/method/mine.yaml cannot be composed: UnicodeDecodeError")


@pytest.mark.parametrize("key", ["pairs", "datasets", "tune"])
def test_empty_values_of_pairs_data_sets_and_search_spaces_are_none(write, key):
    write(f"{YAML}{key}:\n")
    assert load_method("mine", PAIR, []).options == load_method("kd", "", []).options


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys\nsys.exit('bye')\n", r"SystemExit: bye \(.*mine.py:2\)"),
        (None, "there is no methods/mine.py"),
        ("", "must define exactly one Method, not 0"),
        (CODE + "class Other(Method): pass\n", "must define exactly one Method, not 2"),
        ("def f(:\n", r"SyntaxError: invalid syntax \(.*mine.py:1\)"),
        ("\nimport nothing_here\n", r"No module named 'nothing_here' \(.*mine.py:2\)"),
        (CODE.replace("    Options = Options", "    pass"), "Mine.Options must be a dataclass"),
        (CODE.replace("kd_weight", "weight_of_kd"), "there is no option kd_weight; did you mean weight_of_kd"),
    ],
)
def test_a_mistake_in_the_code(write, code, expected):
    write(OWN, code)
    with pytest.raises(UserError, match=expected):
        load_method("mine", PAIR, [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("raise ValueError('two\\nlines')", "mine on resnet14-resnet8: two lines"),
        ("{}['x']", "mine on resnet14-resnet8 cannot be built: KeyError: 'x' ("),
    ],
)
def test_a_method_whose_requirements_fail_is_refused_by_the_plan(write, tiny, capsys, line, expected):
    head = "    @classmethod\n    def requirements(cls, options, student_shapes, teacher_shapes):"
    write(OWN, f"{CODE}{head}\n        {line}\n")
    assert main(["plan", *tiny, "methods=mine"]) == 2
    out, err = capsys.readouterr()
    assert expected in err and len(err.splitlines()) == 1 and out == ""
