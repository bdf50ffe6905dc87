"""The option model: limits, dotted names, nesting, and the check of values."""

import dataclasses
from dataclasses import dataclass

import pytest

from methods import loca, options
from methods.options import (
    boolean,
    bounded,
    build_options,
    dotted_names,
    dotted_values,
    identity_values,
    integer,
    leaf_fields,
    limits_of,
    loss_weight,
    nested_values,
    non_negative,
    one_of,
    option,
    positive,
    restrict,
    violations,
)


@dataclass
class Inner:
    rate: float = positive(at_most=1.0)
    kind: str = one_of("a", "b")


@dataclass
class Outer:
    weight: float = loss_weight()
    epochs: float = non_negative(at_most=10)
    count: int = integer(1, at_most=3)
    flag: bool = boolean()
    momentum: float = bounded(at_least=0.0, below=1.0)
    sizes: list[int] = option(options.Limits(at_least=2))
    title: str = option()
    inner: Inner = option()


VALID = {
    "weight": 0.0, "epochs": 10, "count": 3, "flag": True, "momentum": 0.0, "sizes": [2, 5], "title": "t",
    "inner": {"rate": 1.0, "kind": "a"},
}  # fmt: skip


def changed(name, value):
    values = {**VALID, "inner": dict(VALID["inner"])}
    head, _, tail = name.partition(".")
    if tail:
        values[head][tail] = value
    else:
        values[head] = value
    return build_options(Outer, values)


def test_values_within_their_limits_have_no_violation():
    assert list(violations(build_options(Outer, VALID))) == []


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("weight", -0.1, "it must be at least 0"),
        ("weight", float("nan"), "it must be a finite number"),
        ("weight", float("inf"), "it must be a finite number"),
        ("epochs", 11, "it must be at most 10"),
        ("count", 0, "it must be at least 1"),
        ("count", 4, "it must be at most 3"),
        ("momentum", 1.0, "it must be below 1"),
        ("inner.rate", 0.0, "it must be above 0"),
        ("inner.rate", 1.5, "it must be at most 1"),
        ("inner.kind", "c", "it must be one of a, b"),
        ("title", "", "it is empty"),
    ],
)
def test_a_value_outside_its_limits_is_named_with_the_limit(name, value, reason):
    ((dotted, actual, choices, message),) = violations(changed(name, value))
    assert (dotted, message) == (name, reason)
    assert actual is value
    assert choices == (("a", "b") if name == "inner.kind" else ())


def test_every_element_of_a_list_is_checked():
    assert [value for _, value, *_ in violations(changed("sizes", [1, 2, 0]))] == [1, 0]


def test_dotted_names_reach_nested_options():
    names = ["weight", "epochs", "count", "flag", "momentum", "sizes", "title", "inner.rate", "inner.kind"]
    assert dotted_names(Outer) == names == list(leaf_fields(Outer))
    assert dotted_values(build_options(Outer, VALID)) == dict(nested_values(VALID))


@dataclass
class YoungerInner:
    rate: float = positive(implied=2.0)


@dataclass
class Extended:
    """Options of which all but the weight are younger than the runs recorded as {"weight": …, "inner": {}}."""

    weight: float = loss_weight()
    warmup: float = non_negative(implied=0.0)
    values: str = one_of("logits", "softmax", implied="logits")
    inner: YoungerInner = option()


def test_implied_values_are_no_part_of_an_identity_and_are_restored():
    recorded = {"weight": 0.5, "inner": {}}
    restored = build_options(Extended, recorded)
    assert restored == Extended(0.5, 0.0, "logits", YoungerInner(2.0))
    assert identity_values(restored) == recorded
    changed = Extended(0.5, 3.0, "softmax", YoungerInner(1.0))
    assert identity_values(changed) == {"weight": 0.5, "warmup": 3.0, "values": "softmax", "inner": {"rate": 1.0}}
    assert build_options(Extended, identity_values(changed)) == changed
    with pytest.raises(KeyError):
        build_options(Extended, {"inner": {}})


def test_loss_weights_and_positive_numbers_are_tunable():
    tunable = {name for name, f in leaf_fields(Outer).items() if limits_of(f).tunable}
    assert tunable == {"weight", "epochs", "inner.rate"}


def test_a_field_of_another_origin_has_no_limits():
    (field,) = dataclasses.fields(dataclasses.make_dataclass("Plain", [("x", float)]))
    assert limits_of(field) == options.Limits()


def test_restrict_keeps_the_options_of_the_schema_alone():
    values = {"weight": 1.0, "about": {}, "inner": {"rate": 0.5, "name": "n"}}
    assert restrict(Outer, values) == {"weight": 1.0, "inner": {"rate": 0.5}}


def test_a_missing_option_is_a_key_error():
    with pytest.raises(KeyError, match="weight"):
        build_options(Outer, {})


def test_the_limits_of_published_methods_apply(make_options):
    _, calibrated = make_options("loca", alpha=1.1)
    assert [(name, reason) for name, _, _, reason in violations(calibrated)] == [("alpha", "it must be at most 1")]
    _, contrastive = make_options("crd", momentum=1.5)
    assert [name for name, *_ in violations(contrastive)] == ["momentum"]
    assert set(dotted_names(loca.LoCaOptions)) == {"temperature", "ce_weight", "kd_weight", "alpha"}
