"""The parser of key=value words: values, lists, paths, sweeps, and whose option a word sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config import overrides
from benchmark.config.schema import AblateOptions, TuneOptions
from benchmark.errors import UserError

NAMES = st.from_regex(r"[A-Za-z0-9_.-]+", fullmatch=True)
# any path that does not look like a quoted one; `$` starts an interpolation
PATHS = st.text(st.characters(exclude_characters="$\0\n\r", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text[0] not in "'\"" and text.strip() == text and text != "null"
)


@given(st.sampled_from(overrides.PATHS), PATHS)
def test_paths_are_taken_literally(key, path):
    assert overrides.parse(f"{key}={path}").value == path


@given(st.lists(NAMES, min_size=1))
def test_brackets_around_a_list_are_optional(names):
    plain, bracketed = (overrides.parse(f"methods={text}") for text in (",".join(names), f"[{', '.join(names)}]"))
    assert plain.text == bracketed.text
    assert overrides.parse_names(f"methods={','.join(names)}") == names


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("[0-1,7]", [0, 1, 7]), ("3-3", [3]), ("5", [5])]
)
def test_a_range_of_seeds_includes_its_ends(text, seeds):
    assert overrides.parse(f"seeds={text}").value == seeds


@pytest.mark.parametrize("text", ["4-0", "0-99999999999"])
def test_a_range_that_counts_down_or_very_far_is_refused(text):
    with pytest.raises(UserError, match=f"cannot read 'seeds={text}': a range counts up by at most 1000 seeds"):
        overrides.parse(f"seeds={text}")


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()))
def test_plain_values_survive_a_round_trip(value):
    assert overrides.parse(f"recipe.lr={overrides.override_text(value)}").value == value


@pytest.mark.parametrize(
    ("word", "sweep"),
    [
        ("kd.temperature=2,4", [2, 4]),
        ("clkd.cc_norm=fro,'fro2'", ["fro", "fro2"]),
        ("clkd.nu=range:0:1:0.5", {"range": [0, 1, 0.5]}),
        ("clkd.nu=log:1e-3:1:4", {"log": [0.001, 1, 4]}),
        ("clkd.nu=decade:5", {"decade": [5]}),
        ("clkd.nu=3", None),
        ("seeds=0,1", None),
        ("recipe.milestones=[1,2]", None),
        ("runs=a:b", None),
    ],
)
def test_sweeps(word, sweep):
    assert overrides.parse_sweep(word) == sweep


def test_the_owner_of_an_option():
    words = ["kd.temperature=2", "method.ce_weight=1", "recipe.epochs=2", "dataset@x=digits"]
    assert [overrides.method_of(word) for word in words] == ["kd", "method", None, None]
    assert overrides.keys_of(words) == {"kd.temperature", "method.ce_weight", "recipe.epochs", "dataset"}


def test_words_are_separated_by_the_schema_of_a_command():
    words = ["grid=a,[b]", "setting=nu=0.1, mu=2", "train=none", "recipe.epochs=2", "train=all"]
    values, others = overrides.split_by_schema(words[:1] + words[1:], AblateOptions)
    assert others == ["recipe.epochs=2"] and values["setting"] == "nu=0.1, mu=2" and values["train"] == "all"
    assert overrides.split_by_schema(["trials=3", "runs=x"], TuneOptions) == ({"trials": 3}, ["runs=x"])


@pytest.mark.parametrize("word", ["pair=", "pair=a,,b"])
def test_empty_names_are_refused(word):
    with pytest.raises(UserError, match="has an empty value: write pair="):
        overrides.parse_names(word)
