"""The parser of the command line's key=value words.

    recipe.epochs=20       one value, in Hydra's grammar
    seeds=0,1              a list; brackets are optional: seeds=[0,1]; a range of seeds includes its ends: seeds=0-4
    runs=my runs           a path, or the name of a data set, taken literally; quotes around it are optional
    kd.temperature=2       an option of a method; its key is <method>.<option>, or method.<option> for every method
    kd.temperature=2,4     a sweep (`ablate` alone); also range:a:b:step, log:a:b:n and decade:n

No torch here: the analysis commands use it too.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.config import files
from benchmark.errors import UserError, nearest
from methods.options import leaf_fields

LISTS = {"pair": "wrn40_2-wrn16_2", "methods": "kd,clkd", "seeds": "0,1,2"}  # keys with a list, and an example
PATHS = (
    "runs", "reports", "data", "teacher.checkpoint", "teacher.cache_dir", "dataset.file", "dataset.root",
    "dataset.cache_dir",
)  # fmt: skip
TEXTS = ("dataset.name", "executor.extra", "executor.setup")
LITERALS = (*PATHS, *TEXTS)  # keys whose value is a text whatever it looks like
MAX_SEEDS = 1000  # of a range; a longer one is a typing mistake
SCALES = ("range", "log", "decade")  # sweeps whose values are computed

Sweep = list[Any] | dict[str, Any]  # the values themselves, or {scale: its numbers}


@dataclass(frozen=True)
class Override:
    """One key=value word with a single value. text: the word in Hydra's grammar, lists in brackets, paths in quotes."""

    key: str
    value: Any
    text: str


def key_of(word: str) -> str:
    """Return the key of a key=value word."""
    return word.split("=", 1)[0].split("@")[0]


def keys_of(words: Iterable[str]) -> set[str]:
    """Return the keys of key=value words."""
    return set(map(key_of, words))


def method_of(word: str) -> str | None:
    """Return the method whose option a word sets, `method` for every method's; None for a shared option."""
    owner = key_of(word).split(".")[0]
    return owner if owner == "method" or owner in files.group_names("method") else None


def is_shared(word: str) -> bool:
    """Return True for an override that is not an option of a method."""
    return method_of(word) is None


def parse(word: str) -> Override:
    """Parse a word with one value.

    Raises UserError for a word that is no override, for a sweep, and for an unknown name of a group of `conf/`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    text = _in_hydra_grammar(word)
    if not re.match(r"(?!hydra\.)[\w.@/]+=", text):
        raise UserError(f"{word!r} is not an override: write key=value, as in recipe.epochs=20")
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as e:
        raise UserError(f"cannot read {word!r}: write key=value, and lists as key=[a,b]") from e
    key, value = parsed.key_or_group, parsed.value()
    if parsed.is_sweep_override():
        raise UserError(f"{key} takes one value, not {word.split('=', 1)[1]}")
    if (files.CONF / key).is_dir() and value not in (names := files.group_names(key)):
        raise UserError(f"unknown {key} {value!r}{nearest(str(value), names)}")
    return Override(key_of(text), value, text)


def parse_all(words: Iterable[str]) -> list[Override]:
    """Parse words with one value each; see `parse`."""
    return [parse(word) for word in words]


def parse_sweep(word: str) -> Sweep | None:
    """Return the values that a word sweeps over; None for a word with one value, or with a list of names."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException

    key, _, text = word.partition("=")
    scale, *numbers = text.split(":")
    if scale in SCALES and numbers:
        try:
            return {scale: [float(n) if re.search(r"[.e]", n.lower()) else int(n) for n in numbers]}
        except ValueError:
            raise UserError(f"cannot read {word!r}: write range:a:b:step, log:a:b:n or decade:n") from None
    if key in LISTS:
        return None
    with contextlib.suppress(HydraException):
        choice = OverridesParser.create().parse_override(word).value()
        if isinstance(choice, ChoiceSweep):
            return [getattr(value, "text", value) for value in choice.list]
    return None


def parse_names(word: str) -> list[str]:
    """Return the names of a word such as pair=a,b or pair=[a,b]. Raises UserError for an empty one."""
    key, _, text = word.partition("=")
    names = _split(text)
    if not all(names) or not names:
        raise UserError(f"{word!r} has an empty value: write {key}=…")
    return names


def expand_seeds(names: Iterable[str]) -> list[str]:
    """Return seeds with ranges such as 0-4 expanded, their ends included. Raises UserError for a range that counts
    down, or is too long."""
    return [seed for name in names for seed in _expand_range(f"seeds={name}", name)]


def split_by_schema(words: Sequence[str], schema: type) -> tuple[dict[str, Any], list[str]]:
    """Separate the words about the options of a flat schema, parsed, from the others. The last word of a key counts."""
    fields = leaf_fields(schema)
    values: dict[str, Any] = {}
    others = []
    for word in words:
        if (key := key_of(word)) in fields:
            values[key] = _reader(fields[key].type)(word)
        else:
            others.append(word)
    return values, others


def override_text(value: Any) -> str:
    """Return a plain value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def value_text(value: Any) -> str:
    """Return an option's value as labels, messages and tables show it: a float in short form."""
    return f"{value:g}" if isinstance(value, float) else override_text(value)


def _reader(kind: Any) -> Callable[[str], Any]:
    """Return the function that reads a word whose value is of this type; free text needs no quotes."""
    if kind == list[str]:
        return parse_names
    return _literal if kind in (str, str | None) else lambda word: parse(word).value


def _literal(word: str) -> str | None:
    text = word.split("=", 1)[1]
    if text == "null":
        return None
    quoted = re.fullmatch(r"(['\"])(.*)\1", text)
    return quoted[2] if quoted else text


def _split(text: str) -> list[str]:
    inner = re.sub(r"^\[(.*)\]$", r"\1", text.strip())
    return [name.strip().strip("'\"") for name in inner.split(",")] if inner.strip() else []


def _expand_range(word: str, name: str) -> list[str]:
    """Return the seeds of a range such as 0-4, its ends included; anything else as it is."""
    if not (ends := re.fullmatch(r"(\d+)-(\d+)", name)):
        return [name]
    first, last = map(int, ends.groups())
    if not first <= last < first + MAX_SEEDS:
        raise UserError(f"cannot read {word!r}: a range counts up by at most {MAX_SEEDS} seeds, as seeds=0-4 does")
    return list(map(str, range(first, last + 1)))


def _in_hydra_grammar(word: str) -> str:
    """Put brackets around a list and quotes around a path. Raises UserError for a malformed list."""
    key, equals, value = word.partition("=")
    if not equals:
        return word
    if key in LITERALS and not re.match(r"['\"]|null$", value):
        # a backslash is special only before a quote
        escaped = re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
        return f"{key}='{escaped}'"
    if key not in LISTS:
        return word
    names = _split(value)
    if key == "seeds":
        names = [seed for name in names for seed in _expand_range(word, name)]
    if not all(re.fullmatch(r"[\w./+-]+", name) for name in names):
        raise UserError(f"cannot read {word!r}: write names with commas between, as in {key}={LISTS[key]}")
    return f"{key}=[{','.join(names)}]"
