"""Names of networks: spellings, unknown names, pairs, and the light networks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import networks
from benchmark.errors import UserError
from benchmark.networks import build, canonical, split_pair


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("resnet_32x4", "resnet32x4"),
        ("resnet26", "resnet26"),
        ("resnet50", "ResNet50"),
        ("wrn_40_2", "wrn40_2"),
        ("WRN28_10", "wrn28_10"),
        ("MobileNet_V2", "MobileNetV2"),
        ("mobile_half", "MobileNetV2"),
        ("ShuffleNetV2", "ShuffleV2"),
    ],
)
def test_spellings_of_a_name(spelling, name):
    assert canonical(spelling) == name


@given(st.sampled_from(networks.names()), st.data())
def test_case_and_underscores_do_not_matter(name, data):
    letters = [letter.upper() if data.draw(st.booleans()) else letter.lower() for letter in name]
    spelling = "".join(letters)
    for prefix in ("resnet", "wrn", "vgg"):
        if spelling.lower().startswith(prefix) and data.draw(st.booleans()):
            spelling = f"{prefix}_{spelling[len(prefix) :]}"
    assert canonical(spelling) == name


def test_the_usual_names_are_canonical_and_distinct():
    assert [canonical(name) for name in networks.names()] == networks.names()
    assert len(set(networks.names())) == len(networks.names()) == 26


@given(st.integers(1, 400), st.sampled_from([("resnet", 2, ""), ("resnet", 2, "x4"), ("wrn", 4, "_2")]))
def test_a_depth_that_does_not_exist_is_an_error_with_the_nearest_one(depth, family):
    prefix, remainder, suffix = family
    name = f"{prefix}{depth}{suffix}"
    if (depth > remainder and depth % 6 == remainder) or name in ("resnet18", "resnet34", "resnet50", "resnet101"):
        assert canonical(name).lower() == name
        return
    with pytest.raises(UserError, match=rf"6n\+{remainder} with n of 1 or more; did you mean ") as error:
        canonical(name)
    suggestion = str(error.value).partition("did you mean ")[2].removesuffix("?")
    nearest = int(suggestion.removeprefix(prefix).removesuffix(suffix))
    assert nearest % 6 == remainder and nearest > remainder
    assert abs(nearest - depth) <= 3 or nearest == 6 + remainder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrn40_0", "unknown network 'wrn40_0'; did you mean wrn40_"),
        ("vgg12", "did you mean vgg1"),
        ("resnet20000", "network 'resnet20000': the depth must be at most 1202"),
        ("wrn40_99999", "network 'wrn40_99999': the width must be at most 64"),
        ("MobileNetV3", "did you mean MobileNetV2"),
        ("", "unknown network ''; known: "),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_names(name, message):
    for function in (canonical, networks.is_light, lambda name: build(name, 10)):
        with pytest.raises(UserError) as error:
            function(name)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_pairs():
    assert split_pair("wrn_40_2-WRN16_2") == ("wrn40_2", "wrn16_2")
    assert split_pair("resnet50-mobilenetv2") == ("ResNet50", "MobileNetV2")
    for pair in ("wrn40_2", "wrn-40-2-wrn-16-2", "wrn40_2-", "-", ""):
        with pytest.raises(UserError, match="is not <teacher>-<student> with one hyphen"):
            split_pair(pair)
    with pytest.raises(UserError, match=r"unknown network 'vgg12'"):
        split_pair("vgg13-vgg12")


def test_light_networks():
    light = [name for name in networks.names() if networks.is_light(name)]
    assert light == ["MobileNetV2", "ShuffleV1", "ShuffleV2"] and networks.is_light("mobile_half")
