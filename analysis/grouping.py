"""Finished runs sorted into result groups: runs that were trained alike, one row per method and variant.

Where a method was run with several options on a pair, each has its own row, labeled by the options that differ; so is
an option that is not the method's default.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import published
from analysis.conditions import (
    TEACHER_KEY,
    Values,
    Where,
    check_where,
    differing_keys,
    distinguishing_keys,
    format_setting,
    scalar_keys,
    short_names,
    teacher_ranks,
    values,
)
from analysis.frames import grouped
from analysis.groups import MethodRow, ResultGroup, SeedGroup, TeacherRow
from analysis.load import load_config
from benchmark.config.overrides import value_text
from benchmark.runs.record import number

IGNORED_KEYS = ("role", "seed", "profile", "student", "teacher.network")  # equal in a seed group, or given by the pair


def group_runs(finished: pd.DataFrame, pairs: Sequence[str] = (), where: Sequence[Where] = ()) -> list[ResultGroup]:
    """Return the groups of the finished runs: by data set, profile and the conditions that runs were trained under.

    The main group of each data set and profile is followed by those of other conditions. Pairs are in the order of
    `pairs`, else in that of published tables, then by name. where: only runs whose settings fulfill these conditions;
    raises UserError where no run fulfills one of them.
    """
    by_table = {
        key: [SeedGroup(runs, _config(runs)) for runs in _of_one_config(frame)]
        for key, frame in grouped(finished.sort_values(["identity", "seed"]), ["dataset", "profile"])
    }
    check_where(where, [seed_group.config for seed_groups in by_table.values() for seed_group in seed_groups])
    groups = []
    for (dataset, profile), seed_groups in by_table.items():
        chosen = [s for s in seed_groups if all(_fulfills(s, condition) for condition in where)]
        chosen = [s for s in chosen if not pairs or s.pair in pairs]
        for conditions, alike in _by_conditions(chosen):
            groups.append(_result_group(dataset, profile, conditions, _in_order(dataset, pairs, alike), alike))
    return groups


def _fulfills(seed_group: SeedGroup, condition: Where) -> bool:
    """Return whether a condition holds; one on the teacher does for students alone, which have none."""
    without_teacher = condition.key.startswith("teacher.") and seed_group.alone is not None
    return without_teacher or condition.holds(seed_group.config)


def _of_one_config(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Runs of one method with one config on one pair; of copies of a student alone, the first of each seed."""
    for _, runs in grouped(frame, ["method", "pair", "configuration"]):
        yield runs.drop_duplicates("seed").sort_values("seed") if runs.alone.iloc[0] else runs


def _in_order(dataset: str, pairs: Sequence[str], seed_groups: Sequence[SeedGroup]) -> list[str]:
    """The pairs that have runs, in the order of a table's columns."""
    available = {s.pair for s in seed_groups}
    if pairs:
        return [p for p in dict.fromkeys(pairs) if p in available]
    rank = published.pair_order(dataset)
    return sorted(available, key=lambda p: (rank.get(p, len(rank)), p.lower(), p))


def _by_conditions(seed_groups: Sequence[SeedGroup]) -> list[tuple[tuple[str, ...], list[SeedGroup]]]:
    """Seed groups sorted by the conditions they were trained under, the main ones first, with what tells each apart.

    Runs of the student alone without a teacher belong to all conditions that differ in the teacher only. The main
    conditions are those of the profile where there are any, and of several those with the most runs.
    """
    by_pair: dict[str, list[SeedGroup]] = {}
    for seed_group in seed_groups:
        by_pair.setdefault(seed_group.pair, []).append(seed_group)
    configs = {pair: [s.config for s in of_pair if not s.config_is_missing] for pair, of_pair in by_pair.items()}
    changed = {key for s in seed_groups for key in s.changed_settings}
    keys = [key for key in distinguishing_keys(configs, changed) if key != TEACHER_KEY]
    keys = scalar_keys(keys, [[c for of_pair in configs.values() for c in of_pair]])
    ranks = {
        pair: teacher_ranks([t for s in of_pair if (t := s.config.get(TEACHER_KEY)) for _ in range(s.n)])
        for pair, of_pair in by_pair.items()
    }
    parts: dict[tuple[Values, int], list[SeedGroup]] = {}
    without_teacher, without_config = [], []
    for s in seed_groups:
        if s.config_is_missing:
            without_config.append(s)
        elif (sha256 := s.config.get(TEACHER_KEY)) is None:
            without_teacher.append(s)
        else:
            parts.setdefault((values(s.config, keys), ranks[s.pair][sha256]), []).append(s)
    for s in without_teacher:
        alike = [part for (of_part, _), part in parts.items() if of_part == values(s.config, keys)]
        for part in alike or [parts.setdefault((values(s.config, keys), 0), [])]:
            part.append(s)
    order = sorted(parts, key=lambda key: _precedence(parts[key], key))
    ordered = [(key, parts[key]) for key in order] or [(((), 0), [])]
    ordered[0][1].extend(without_config)
    return [(_differences(keys, ordered[0][1], ordered[0][0], part, key), part) for key, part in ordered if part]


def _precedence(seed_groups: Sequence[SeedGroup], key: tuple[Values, int]) -> tuple[Any, ...]:
    """Sort key of conditions: unchanged ones first, then by the number of runs, then by the settings."""
    changed = any(not key.startswith("method.") for s in seed_groups for key in s.changed_settings)
    return changed, -sum(s.n for s in seed_groups), key[1], [_sort_key(value) for value in key[0]]


def _differences(
    keys: Sequence[str], main: Sequence[SeedGroup], main_key: tuple[Values, int], part: Sequence[SeedGroup],
    key: tuple[Values, int],
) -> tuple[str, ...]:  # fmt: skip
    """The conditions, as a command line has them, that tell a part from the main one."""
    pairs_of_values = zip(keys, main_key[0], key[0], strict=True)
    words = [f"{name}={value_text(value)}" for name, of_main, value in pairs_of_values if repr(value) != repr(of_main)]
    if key[1] != main_key[1]:
        teachers = dict.fromkeys(str(s.config[TEACHER_KEY])[:12] for s in part if TEACHER_KEY in s.config)
        words += [f"{TEACHER_KEY}={sha256}" for sha256 in teachers]
    return tuple(words)


def _result_group(
    dataset: str, profile: str, conditions: tuple[str, ...], pairs: list[str], seed_groups: Sequence[SeedGroup]
) -> ResultGroup:
    runs = pd.concat([s.runs for s in seed_groups]).sort_values(["identity", "seed"])
    by_method: dict[str, dict[str, list[SeedGroup]]] = {}  # method -> pair -> one per identity
    for seed_group in seed_groups:
        by_method.setdefault(seed_group.method, {}).setdefault(seed_group.pair, []).append(seed_group)
    titles = _titles(runs)
    rows = []
    for method in sorted(by_method, key=lambda m: _order(m, runs, titles)):
        rows += _rows(method, titles[method], by_method[method])
    networks = dict(zip(runs.pair, zip(runs.teacher, runs.student, strict=True), strict=True))
    return ResultGroup(dataset, profile, pairs, networks, _teachers(runs), rows, conditions, runs)


def _config(runs: pd.DataFrame) -> dict[str, Any]:
    """The settings that runs of one identity share, from the first readable config.yaml."""
    config = next(filter(None, map(load_config, runs.folder)), {})
    config = {k: v for k, v in config.items() if k not in IGNORED_KEYS}
    if runs.alone.iloc[0]:  # its teacher, which older runs name, has no effect
        return {k: v for k, v in config.items() if k != TEACHER_KEY}
    if isinstance(sha256 := runs.teacher_sha256.iloc[0], str):
        config.setdefault(TEACHER_KEY, sha256)
    return config


def _order(method: str, frame: pd.DataFrame, titles: Mapping[str, str]) -> tuple[Any, ...]:
    """The student alone first, then by year and title; methods without a year last."""
    year = frame.year[frame.method == method].min()
    return method != published.STUDENT, 9999 if pd.isna(year) else year, titles[method].lower(), method


def _titles(frame: pd.DataFrame) -> dict[str, str]:
    """Each method's title, `Student` for the student alone; followed by the method's name where two share a title."""
    titles = {m: min(of_method) for m, of_method in frame.groupby("method").title} | {published.STUDENT: "Student"}
    counts = Counter(titles[m] for m in set(frame.method))
    return {m: t if counts[t] <= 1 else f"{t} [{m}]" for m, t in titles.items()}


def _rows(method: str, title: str, by_pair: dict[str, list[SeedGroup]]) -> list[MethodRow]:
    """The rows of one method, one per variant: that of its default options first, then the others by their options."""
    options = {k for seed_groups in by_pair.values() for k in differing_keys([s.config for s in seed_groups])}
    options |= {k for seed_groups in by_pair.values() for s in seed_groups for k in s.changed_settings}
    configs = [[s.config for s in seed_groups] for seed_groups in by_pair.values()]
    keys = scalar_keys(sorted(k for k in options if k.startswith("method.")), configs)
    # where labels alone cannot tell runs apart, their identity can
    needs_identity = any(len({values(c, keys) for c in of_pair}) < len(of_pair) for of_pair in configs)
    by_variant: dict[Values, dict[str, SeedGroup]] = {}
    for pair, seed_groups in by_pair.items():
        for seed_group in seed_groups:
            variant = (*values(seed_group.config, keys), *([seed_group.identity] if needs_identity else []))
            by_variant.setdefault(variant, {})[pair] = seed_group
    variants = sorted(by_variant, key=lambda variant: [_sort_key(value) for value in variant])
    defaults = [v for v in variants if all(s.has_default_options for s in by_variant[v].values())]
    # runs that do not record what was changed, or are older than a change of the default, all count as default ones
    default = max(reversed(defaults), key=lambda v: sum(s.n for s in by_variant[v].values()), default=None)
    names = short_names(keys)
    rows = []
    for i, variant in enumerate(sorted(variants, key=lambda v: v != default)):
        settings = [f"{names[k]}={format_setting(v)}" for k, v in zip(keys, variant, strict=False)]
        settings += [f"run {variant[-1]}"] if needs_identity else []
        plain = not settings or (variant == default and len(defaults) == 1)
        label = title if plain else f"{title} ({', '.join(settings)})"
        rows.append(MethodRow(method, label, i, by_variant[variant], is_default=variant == default))
    return rows


def _teachers(runs: pd.DataFrame) -> list[TeacherRow]:
    """The accuracies of the pairs' teachers; none where no accuracy is recorded or shown."""
    by_pair = runs.dropna(subset="teacher_top1").sort_values("alone", kind="stable").drop_duplicates("pair")
    if by_pair.empty:
        return []
    hashes = {
        pair: sha256 if isinstance(sha256, str) else None
        for pair, sha256 in zip(by_pair.pair, by_pair.teacher_sha256, strict=True)
    }
    top1 = dict(zip(by_pair.pair, by_pair.teacher_top1.astype(float), strict=True))
    with_top5 = runs.dropna(subset="teacher_top5").drop_duplicates("pair")
    top5 = dict(zip(with_top5.pair, with_top5.teacher_top5.astype(float), strict=True))
    return [TeacherRow("Teacher", top1, hashes, top5)]


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    if number(value) is not None:
        return 0, float(value), ""
    return 1, 0.0, format_setting(value)
