"""The references that are added to the chosen methods."""

import pytest

from benchmark.config.compose import load_config
from benchmark.config.references import describe_additions, missing_references, with_references
from benchmark.errors import UserError


@pytest.mark.parametrize(
    ("words", "trained"),
    [
        (["methods=clkd"], ["clkd", "ce", "kd"]),
        (["methods=kd"], ["kd", "ce"]),
        (["methods=clkd,ce,kd"], ["clkd", "ce", "kd"]),
        (["methods=ce"], ["ce"]),
        (["methods=clkd", "references=false"], ["clkd"]),
    ],
)
def test_missing_references_are_trained_after_the_chosen_methods(words, trained):
    config = load_config(words)
    assert with_references(config).methods == trained
    assert config.methods == trained[: len(trained) - len(missing_references(config))]


def test_what_is_added_is_said():
    text = describe_additions(load_config(["methods=clkd"]))
    assert text == "added for comparison: ce (the student alone), kd (KD); references=false leaves them out\n"
    assert describe_additions(load_config(["methods=ce,kd"])) == ""


def test_options_of_added_references_may_be_set_where_they_are_added():
    words = ["methods=clkd", "kd.temperature=2"]
    load_config(words, references=True)
    for more, references in (([], False), (["references=false"], True)):
        with pytest.raises(UserError, match="kd is not among the methods clkd"):
            load_config([*words, *more], references=references)
