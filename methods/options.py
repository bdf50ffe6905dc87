"""The option model: typed fields with limits, their dotted names, nesting, and the check of values.

A method's options are a dataclass whose fields are made by the functions below; the YAML of the method holds the
defaults. The same fields describe the configuration of a whole command. Only the standard library is imported.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

LARGEST = 1e6  # of temperatures, rates and numbers of epochs; beyond, float32 overflows in the losses


@dataclass(frozen=True)
class Limits:
    """Allowed values of an option.

    tunable: `tune` searches the option by default, on a log scale around its value. implied: the value of an option
    that is younger than some recorded runs. A run's identity leaves the option out where it has this value, so that
    runs made before the option existed are found; None: the identity always holds it.
    """

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    tunable: bool = False
    implied: Any = None

    def violation(self, value: Any) -> str | None:
        """Describe why `value` is not allowed, as in "it must be above 0"; None where it is allowed."""
        if isinstance(value, float) and not math.isfinite(value):
            return "it must be a finite number"
        if not is_number(value):
            return None
        checks = (
            (self.at_least, "at least", lambda limit: value >= limit),
            (self.at_most, "at most", lambda limit: value <= limit),
            (self.above, "above", lambda limit: value > limit),
            (self.below, "below", lambda limit: value < limit),
        )
        for limit, words, holds in checks:
            if limit is not None and not holds(limit):
                return f"it must be {words} {limit:g}"
        return None


def option(limits: Limits | None = None, **metadata: Any) -> Any:
    """Return a dataclass field with limits."""
    return field(metadata={"limits": limits or Limits(), **metadata})


def loss_weight() -> Any:
    """The weight of a loss term: a number of 0 or more."""
    return option(Limits(at_least=0.0, tunable=True))


def non_negative(at_most: float = LARGEST, implied: float | None = None) -> Any:
    """A number of 0 or more that is not a loss weight, such as a number of epochs."""
    return option(Limits(at_least=0.0, at_most=at_most, tunable=True, implied=implied))


def positive(at_most: float = LARGEST, implied: float | None = None) -> Any:
    """A number above 0, such as a temperature."""
    return option(Limits(above=0.0, at_most=at_most, tunable=True, implied=implied))


def bounded(at_least: float | None = None, at_most: float | None = None, below: float | None = None) -> Any:
    """A number within limits."""
    return option(Limits(at_least=at_least, at_most=at_most, below=below))


def integer(at_least: int, at_most: int | None = None) -> Any:
    """A whole number within limits."""
    return option(Limits(at_least=at_least, at_most=at_most))


def boolean() -> Any:
    """True or false."""
    return option()


def one_of(*choices: str, implied: str | None = None) -> Any:
    """One of several names."""
    return option(Limits(choices=choices, implied=implied))


def limits_of(option_field: dataclasses.Field) -> Limits:
    """Return the limits of a field; none for a field that was not made by this module."""
    return option_field.metadata.get("limits", Limits())


def leaf_fields(schema: type, prefix: str = "") -> dict[str, dataclasses.Field]:
    """Return the fields of a schema by dotted name; nested dataclasses contribute their own fields."""
    fields: dict[str, dataclasses.Field] = {}
    for f in dataclasses.fields(schema):
        if is_schema(f.type):
            fields |= leaf_fields(f.type, f"{prefix}{f.name}.")
        else:
            fields[prefix + f.name] = f
    return fields


def dotted_names(schema: type) -> list[str]:
    """Return the dotted names of all options of a schema."""
    return list(leaf_fields(schema))


def dotted_values(options: Any) -> dict[str, Any]:
    """Return the values of an options instance by dotted name."""
    return {name: functools.reduce(getattr, name.split("."), options) for name in leaf_fields(type(options))}


def nested_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for the leaves of nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from nested_values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def restrict(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a nested mapping that are options of the schema."""
    return {
        f.name: restrict(f.type, values[f.name]) if is_schema(f.type) else values[f.name]
        for f in dataclasses.fields(schema)
        if f.name in values
    }


def build_options(schema: type, values: Mapping[str, Any]) -> Any:
    """Build an options instance from nested plain values.

    Raises KeyError for a missing option that has no implied value.
    """
    return schema(**{f.name: _option_value(f, values) for f in dataclasses.fields(schema)})


def _option_value(option_field: dataclasses.Field, values: Mapping[str, Any]) -> Any:
    if is_schema(option_field.type):
        return build_options(option_field.type, values[option_field.name])
    implied = limits_of(option_field).implied
    return values[option_field.name] if implied is None else values.get(option_field.name, implied)


def identity_values(options: Any) -> dict[str, Any]:
    """Return the nested values of an options instance without those equal to their implied values.

    `build_options` restores the instance.
    """
    values = {}
    for f in dataclasses.fields(options):
        value = getattr(options, f.name)
        if is_schema(f.type):
            values[f.name] = identity_values(value)
        elif (implied := limits_of(f).implied) is None or value != implied:
            values[f.name] = value
    return values


def violations(options: Any, prefix: str = "") -> Iterator[tuple[str, Any, Collection[str], str]]:
    """Yield (dotted name, value, choices, reason) for every value outside its limits, elements of lists included.

    choices: the allowed names of an option made by `one_of`, else empty.
    """
    for f in dataclasses.fields(options):
        value, name, limits = getattr(options, f.name), prefix + f.name, limits_of(f)
        if dataclasses.is_dataclass(value):
            yield from violations(value, f"{name}.")
            continue
        for v in value if isinstance(value, list) else [value]:
            if v == "":
                yield name, v, (), "it is empty"
            elif isinstance(value, list) and isinstance(v, list | dict):
                yield name, v, (), "each element must be a single value"
            elif limits.choices and v is not None and v not in limits.choices:
                yield name, v, limits.choices, f"it must be one of {', '.join(limits.choices)}"
            elif reason := limits.violation(v):
                yield name, v, (), reason


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return True for an int or a float, False for a bool and anything else."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_schema(kind: Any) -> TypeGuard[type]:
    """Return True for a dataclass type, as the type of a field that nests other options."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
