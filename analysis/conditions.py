"""Which runs were trained alike, so that one table may compare them, and the settings that users select runs by.

The conditions of a run are its settings outside the method: data set, recipe, precision, and the teacher. Keys are
those of the flat config, such as `recipe.epochs`.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.config.overrides import value_text
from benchmark.errors import UserError, nearest

Config = Mapping[str, Any]  # flat, by dotted key
Values = tuple[Any, ...]
TEACHER_KEY = "teacher.sha256"
TEACHER_TRAIN_SIZE = "teacher.train_size"  # only of a teacher with training images that its students do not have
ALWAYS = ("precision",)  # may differ between pairs without any run having overridden it
HASH = re.compile(r"[0-9a-f]{16,}")


@dataclass(frozen=True)
class Where:
    """A condition of the command line, `recipe.epochs=240`: a flat key and the text of its value."""

    key: str
    text: str

    def holds(self, config: Config) -> bool:
        """Return whether a config has this value; of a long hash the first digits are enough."""
        if self.key not in config:
            return False
        text = value_text(config[self.key])
        return text == self.text or (bool(HASH.fullmatch(text)) and len(self.text) >= 6 and text.startswith(self.text))


def parse_where(words: Sequence[str]) -> list[Where]:
    """Parse words such as `recipe.epochs=240`. Raises UserError for one that is no condition."""
    conditions = []
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals and text):
            raise UserError(f"where={word} is no condition: write <setting>=<value>, as in where=recipe.epochs=240")
        conditions.append(Where(key, text))
    return conditions


def check_where(conditions: Sequence[Where], configs: Collection[Config]) -> None:
    """Raise UserError for a condition whose setting no run has, or whose value none has."""
    for where in conditions:
        keys = {key for config in configs for key in config}
        if where.key not in keys:
            raise UserError(f"no run has a setting {where.key!r}{nearest(where.key, keys)}")
        if not any(where.holds(config) for config in configs):
            values = sorted({value_text(config[where.key]) for config in configs if where.key in config})
            raise UserError(f"no run has {where.key}={where.text}; there is {', '.join(values[:10])}")


def distinguishing_keys(configs_by_pair: Mapping[str, Sequence[Config]], changed: Collection[str]) -> list[str]:
    """Return the settings outside the methods by which runs were trained unlike.

    These are the settings that differ between runs of one pair, and those that differ between any runs among the ones
    that a run overrode (`changed`). Others, such as the learning rate of light networks, belong to the pair.
    """
    keys: set[str] = set()
    for configs in configs_by_pair.values():
        keys |= differing_keys(configs)
    every = [config for configs in configs_by_pair.values() for config in configs]
    keys |= differing_keys(every) & {*changed, *ALWAYS}
    return sorted(key for key in keys if not key.startswith("method."))


def differing_keys(configs: Sequence[Config]) -> set[str]:
    """Return the keys with more than one value among the configs that have them."""
    keys = {key for config in configs for key in config}
    return {key for key in keys if len({repr(config[key]) for config in configs if key in config}) > 1}


def scalar_keys(keys: Sequence[str], configs: Collection[Collection[Config]]) -> list[str]:
    """Return `keys` without list-valued ones where the others tell the configs of each collection apart as well.

    Lists, such as the milestones, follow from other settings.
    """
    scalar = [k for k in keys if not any(isinstance(c.get(k), tuple) for of_pair in configs for c in of_pair)]
    enough = all(len({values(c, scalar) for c in cs}) == len({values(c, keys) for c in cs}) for cs in configs)
    return scalar if enough else list(keys)


def values(config: Config, keys: Sequence[str]) -> Values:
    """Return the values of a config by key; None for a missing one."""
    return tuple(config.get(key) for key in keys)


def teacher_ranks(teachers: Sequence[str | None]) -> dict[str | None, int]:
    """Return the rank of each teacher of a pair by its number of runs, 0 for the most; of equals the first by hash."""
    counts = Counter(teachers)
    return {sha256: i for i, sha256 in enumerate(sorted(counts, key=lambda t: (-counts[t], str(t))))}


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of each dotted key where that is unambiguous; `teacher` for the teacher's content hash."""
    last = {key: "teacher" if key == TEACHER_KEY else key.rsplit(".", 1)[-1] for key in keys}
    counts = Counter(last.values())
    return {key: short if counts[short] == 1 else key for key, short in last.items()}


def format_setting(value: Any) -> str:
    """Write a setting as it stands in a label; long hashes are cut."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(format_setting, value))}]"
    text = value_text(value)
    return text[:8] if HASH.fullmatch(text) else text
