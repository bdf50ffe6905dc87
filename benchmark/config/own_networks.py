"""A user's own networks on the command line: `network.<name>=package.module:function`, and what is read of them.

Hydra's keys are known beforehand and these are not, so these words are read here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark import networks
from benchmark.config.overrides import parse_names
from benchmark.errors import UserError, nearest
from benchmark.networks import custom

GROUP = "network."
KEYS = ("function", "stages", "classifier")


def split_words(words: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Separate the words about networks from the others: by name the mapping of `KEYS`, and the others.

    Raises UserError for an empty value.
    """
    described: dict[str, dict[str, Any]] = {}
    others = []
    for word in words:
        if not word.startswith(GROUP):
            others.append(word)
            continue
        key, _, value = word.partition("=")
        name, _, last = key.removeprefix(GROUP).rpartition(".")
        if last not in KEYS or not name:
            name, last = key.removeprefix(GROUP), "function"
        if not value or not name:
            raise UserError(f"{word!r} is incomplete: write network.<name>=package.module:function")
        described.setdefault(name, {})[last] = parse_names(word) if last == "stages" else value.strip("'\"")
    return described, others


def merge(configured: Mapping[str, Any], command: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the networks of a config, with those of the command line on top; each is a mapping of `KEYS`.

    Raises UserError for an unknown key and for a network without a function.
    """
    merged: dict[str, dict[str, Any]] = {}
    for name, value in configured.items():
        if not isinstance(value, str | Mapping):
            raise UserError(f"network.{name} is {value!r}: write package.module:function, or a mapping")
        merged[name] = {"function": value} if isinstance(value, str) else dict(value)
    for name, values in command.items():
        merged[name] = merged.get(name, {}) | dict(values)
    for name, values in merged.items():
        for key in values:
            if key not in KEYS:
                raise UserError(f"network.{name} has no {key!r}{nearest(str(key), KEYS)}")
        if not isinstance(values.get("function"), str):
            raise UserError(f"network.{name} names no function: write network.{name}=package.module:function")
        stages, classifier = values.get("stages", []), values.get("classifier", "")
        if not isinstance(stages, list) or not all(isinstance(path, str) for path in stages):
            raise UserError(f"network.{name}.stages is {stages!r}: write a list of modules, [stem,layer1]")
        if not isinstance(classifier, str):
            raise UserError(f"network.{name}.classifier is {classifier!r}: write the path of a linear layer")
    return merged


def register(merged: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the networks of a config known in this process. Raises UserError as `custom.from_function` does."""
    for name, values in merged.items():
        stages, classifier = tuple(values.get("stages", ())), values.get("classifier")
        networks.add_custom(name, custom.from_function(name, values["function"], stages, classifier))
