"""Requirements of every method on pairs of networks: equal to those of the instance, and known without building it."""

import pytest
import torch

from methods.contract import Context, Method, Needs, Requirements, Shapes, UnsupportedPair
from tests.methods.conftest import NAMES, batch_norms

SMALL = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 2, 2))
WIDE = ((4, 8, 8), (6, 8, 8), (5, 4, 4), (8, 4, 4))
LONG = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 4, 4), (6, 2, 2))
COARSE = ((2, 8, 8), (3, 2, 2), (4, 1, 1), (5, 1, 1))


def shapes(stages, with_batch_norms=True):
    channels, *size = stages[-1]
    return Shapes(stages, channels, (channels, *size), with_batch_norms)


PAIRS = {  # student, teacher
    "equal": (shapes(SMALL), shapes(SMALL)),
    "wider teacher": (shapes(SMALL), shapes(WIDE)),
    "longer teacher": (shapes(SMALL), shapes(LONG)),
    "longer student": (shapes(LONG), shapes(WIDE)),
    "coarse student": (shapes(COARSE), shapes(SMALL)),
    "teacher without batch norm": (shapes(SMALL), shapes(SMALL, with_batch_norms=False)),
}
UNSUPPORTED = {
    "wider teacher": {"fsp"},
    "longer teacher": {"fsp"},
    "longer student": {"fsp"},
    "coarse student": {"ab", "fitnet", "fitnet_kd", "fsp", "ft"},
    "teacher without batch norm": {"ofd"},
}


@pytest.fixture
def forbid_building(monkeypatch):
    """Make the construction of any method or layer an error until the fixture is undone."""

    def fail(*_, **__):
        raise AssertionError("requirements must not build anything")

    monkeypatch.setattr(torch.nn.Module, "__init__", fail)
    monkeypatch.setattr(Method, "__init__", fail)
    return monkeypatch


@pytest.mark.parametrize("pair", PAIRS)
def test_requirements_equal_those_of_the_built_method(make_options, pair, forbid_building):
    student, teacher = PAIRS[pair]
    context = Context(5, student, teacher, torch.arange(40) % 5, 20, batch_norms(teacher.stages, seed=0))
    required, unsupported = {}, set()
    for name in NAMES:
        method, options = make_options(name)
        try:
            required[name] = method.requirements(options, student, teacher)
        except UnsupportedPair:
            unsupported.add(name)
    assert unsupported == UNSUPPORTED.get(pair, set())
    forbid_building.undo()
    for name in NAMES:
        method, options = make_options(name)
        if name in unsupported:
            with pytest.raises(UnsupportedPair):
                method(options, context)
        else:
            assert method(options, context).requires == required[name], name


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fitnet", {"hint_layer": 9}, "hint_layer is 9"),
        ("fitnet_kd", {"fitnet": {"hint_layer": 9}}, "hint_layer is 9"),
        ("ft", {"rate": 0.1}, r"rate is 0\.1"),
        ("simkd", {"factor": 9}, "factor is 9"),
        ("cskd", {"highest": 1.0}, r"highest is 1\.0"),
    ],
)
@pytest.mark.usefixtures("forbid_building")
def test_options_that_do_not_fit_the_pair_are_a_value_error(make_options, name, changes, message):
    method, options = make_options(name, **changes)
    with pytest.raises(ValueError, match=message) as error:
        method.requirements(options, *PAIRS["equal"])
    assert not isinstance(error.value, UnsupportedPair)


def test_needs_of_an_epoch_are_those_of_its_stage(make_options):
    method, options = make_options("fsp")
    requirements = method.requirements(options, *PAIRS["equal"])
    maps = Needs(maps=range(4))
    assert requirements.init_epochs == 3  # 30 of 240 epochs, in a run of 20, rounded up
    assert requirements.needs(-2) == requirements.needs(0) == (maps, maps)
    assert requirements.needs(1) == (Needs(logits=True), Needs())


def test_requirements_default_to_the_logits_of_one_view():
    requirements = Requirements()
    assert requirements.needs(1) == requirements.needs(-3) == (Needs(logits=True), Needs(logits=True))
    assert (requirements.views, requirements.init_epochs, requirements.batch_norms) == (1, 0, frozenset())
