"""Search space of a tuning: every tunable option that is not 0, log-uniform from a tenth to ten times its default.

The default is that on the pair and data set (see `methods.options` for which options are tunable). An option given on
the command line is fixed. A method's YAML may declare other ranges:

    tune:
      temperature: { low: 1, high: 16 }  # log-uniform; with log: false uniform
      nmse_reduction: [vector, mean]     # one of these
      warmup: null                       # stays at its default
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmark.config.compose import change_options
from benchmark.config.schema import MethodConfig
from benchmark.errors import UserError, nearest
from methods.options import leaf_fields, limits_of

DECADE = 10.0  # the default range reaches from default / DECADE to default × DECADE
Range = FloatDistribution | IntDistribution


def search_space(method: MethodConfig, fixed: Collection[str] = ()) -> dict[str, BaseDistribution]:
    """Return the distribution of every tuned option by dotted name; `fixed` options are left out.

    Raises UserError where the YAML's `tune` names an unknown option, is malformed, or excludes the default.
    """
    fields = leaf_fields(type(method.options))
    for name in method.tune:
        if name not in fields:
            raise UserError(f"tune of {method.name} names {name!r}, which is no option of it{nearest(name, fields)}")
    space: dict[str, BaseDistribution] = {}
    for name, field in fields.items():
        default = method.values[name]
        if name in fixed:
            continue
        if name in method.tune:
            if method.tune[name] is not None:
                space[name] = _declared_distribution(method, name, method.tune[name])
        elif isinstance(default, float) and default and limits_of(field).tunable:
            space[name] = FloatDistribution(default / DECADE, default * DECADE, log=True)
    return space


def extreme_values(distribution: BaseDistribution) -> Sequence[Any]:
    """Return all values of a choice, or the two ends of a range."""
    if isinstance(distribution, Range):
        return distribution.low, distribution.high
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices


def describe_distribution(distribution: BaseDistribution) -> str:
    """Return a distribution as text, such as `0.1 to 10 (log)`."""
    if isinstance(distribution, Range):
        return f"{distribution.low:g} to {distribution.high:g}{' (log)' if distribution.log else ''}"
    return ", ".join(map(str, extreme_values(distribution)))


def _declared_distribution(method: MethodConfig, name: str, declared: Any) -> BaseDistribution:
    """Return the distribution that a YAML declares for an option."""
    key, default = f"tune.{name} of {method.name}", method.values[name]
    kind = float if isinstance(default, float) else type(default)
    try:
        if isinstance(declared, list) and declared:
            distribution: BaseDistribution = CategoricalDistribution([kind(v) for v in declared])
            contains_default = default in distribution.choices
        elif kind in (int, float) and isinstance(declared, Mapping) and set(declared) - {"log"} == {"low", "high"}:
            distribution = _declared_range(kind, declared)
            contains_default = distribution.low <= default <= distribution.high
        else:
            allowed = "{low: …, high: …} or " if kind in (int, float) else ""
            raise UserError(f"{key} is {declared}: give {allowed}a list of values, or null to leave it at its default")
    except (ValueError, TypeError) as e:
        raise UserError(f"{key}: {e}") from e
    for value in extreme_values(distribution):
        change_options(method, {name: value})  # raises UserError where it is outside the option's own limits
    if not contains_default:
        raise UserError(f"{key} is {declared}: it must contain the default, {default}")
    return distribution


def _declared_range(kind: type, declared: Mapping[str, Any]) -> Range:
    log = declared.get("log", True)
    if kind is float:
        return FloatDistribution(float(declared["low"]), float(declared["high"]), log=log)
    return IntDistribution(int(declared["low"]), int(declared["high"]), log=log)
