"""What the base of all methods says of a method that is wrong, and how versions of its code are told apart."""

import linecache
import shutil
import sys

import pytest
import torch

import methods
from methods.contract import Method, Term, check_terms


def value(**more) -> torch.Tensor:
    return torch.tensor(1.0, **more)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"kd": Term(torch.ones(3, requires_grad=True), 1.0)}, r"term kd of Mine must be a Term\(.*, not \(3,\)"),
        ({"kd": (value(requires_grad=True), 1.0)}, "not tuple"),
        ({"kd": value(requires_grad=True)}, "not Tensor"),
        ({"kd": Term(1.0, 1.0)}, "not Term"),
        ({"ce": Term(value(), 1.0), "kd": Term(value(), 1.0)}, "no term of Mine has a gradient: ce, kd"),
        ({}, "no term of Mine has a gradient: there is none"),
    ],
)
def test_terms_that_cannot_be_trained_are_named(terms, said):
    with pytest.raises(TypeError, match=said):
        check_terms(terms, "Mine")


def test_a_term_without_a_gradient_may_stand_beside_one_with():
    check_terms({"ce": Term(value(requires_grad=True), 1.0), "known": Term(value(), 0.0)}, "Mine")


def test_a_method_without_losses_is_named():
    with pytest.raises(NotImplementedError, match="Mine defines no losses"):
        type("Mine", (Method,), {})(None, None).losses(None, None, None)


def test_code_is_that_which_runs_and_not_what_its_file_has_become(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    shutil.copy(methods.__path__[0] + "/kd.py", tmp_path / "mine.py")
    sys.modules.pop("methods.mine", None)
    methods.load("mine")
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("temperature**2", "temperature**3"))
    linecache.clearcache()
    assert methods.code_version("mine") == methods.code_version("kd")
    sys.modules.pop("methods.mine")


def test_code_changes_with_statements_and_not_with_comments(tmp_path, monkeypatch):
    source = methods.__path__[0] + "/kd.py"
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])

    def code(change) -> str:
        shutil.copy(source, tmp_path / "mine.py")
        text = (tmp_path / "mine.py").read_text()
        (tmp_path / "mine.py").write_text(change(text))
        sys.modules.pop("methods.mine", None)
        linecache.clearcache()
        return methods.code_version("mine")

    same = code(lambda s: s)
    assert same == methods.code_version("kd")
    assert code(lambda s: s.replace("class KD", "# the loss\nclass KD")) == same
    assert code(lambda s: s.replace("temperature**2", "temperature**3", 1)) != same
    assert methods.code_version("crd+kd") not in (methods.code_version("crd"), methods.code_version("kd"))
