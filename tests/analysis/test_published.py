"""Published accuracies of the project, and which of them is shown."""

import pytest

from analysis import published

# Top-1 on CIFAR-100 as the field's two code bases print it: teacher, student alone, KD, FitNet, CRD (RepDistiller) and
# DKD (mdistiller; other sources where it has none).
ANCHORS = {
    "wrn40_2-wrn16_2": (75.61, 73.26, 74.92, 73.58, 75.48, 76.23),
    "wrn40_2-wrn40_1": (75.61, 71.98, 73.54, 72.24, 74.14, 74.81),
    "resnet56-resnet20": (72.34, 69.06, 70.66, 69.21, 71.16, 71.97),
    "resnet110-resnet20": (74.31, 69.06, 70.67, 68.99, 71.46, 71.06),
    "resnet110-resnet32": (74.31, 71.14, 73.08, 71.06, 73.48, 74.11),
    "resnet32x4-resnet8x4": (79.42, 72.50, 73.33, 73.50, 75.51, 76.32),
    "vgg13-vgg8": (74.64, 70.36, 72.98, 71.02, 73.94, 74.68),
    "vgg13-MobileNetV2": (74.64, 64.60, 67.37, 64.14, 69.73, 69.71),
    "ResNet50-MobileNetV2": (79.34, 64.60, 67.35, 63.16, 69.11, 70.35),
    "ResNet50-vgg8": (79.34, 70.36, 73.81, 70.69, 74.30, 75.34),
    "resnet32x4-ShuffleV1": (79.42, 70.50, 74.07, 73.59, 75.11, 76.45),
    "resnet32x4-ShuffleV2": (79.42, 71.82, 74.45, 73.54, 75.65, 77.07),
    "wrn40_2-ShuffleV1": (75.61, 70.50, 74.83, 73.73, 76.05, 76.70),
}


@pytest.mark.parametrize("pair", ANCHORS)
def test_values_of_the_fields_code_bases(pair):
    teacher, student = pair.split("-")
    for method, value in zip(("teacher", "ce", "kd", "fitnet", "crd", "dkd"), ANCHORS[pair], strict=True):
        accuracy = published.find("cifar100", teacher, student, method)
        assert accuracy is not None
        assert accuracy.value == value, method
        if method != "dkd":
            assert accuracy.source.startswith("HobbitLong/RepDistiller")
            assert accuracy.rule == "last"


def test_rules_follow_from_the_source():
    rows = published.load()
    assert set(rows.rule) == {"last", "best", "unknown"}
    assert set(rows.rule[rows.source.str.startswith("HobbitLong/RepDistiller")]) == {"last"}
    assert set(rows.rule[rows.source.str.startswith("megvii-research/mdistiller")]) == {"best"}
    standardized = rows[rows.label.str.contains("+LS", regex=False)]
    assert len(standardized) == 91 and set(standardized.rule) == {"best"}
    dkd = published.find("cifar100", "wrn40_2", "wrn16_2", "dkd")
    assert dkd is not None
    assert dkd.reference.endswith("(best epoch on the test set)")


def test_origins_follow_from_the_source():
    def shown(method):
        return published.find("cifar100", "wrn40_2", "wrn16_2", method)

    assert (shown("kd").origin, shown("dkd").origin) == ("own", "unknown")
    assert shown("kd").reference.endswith("; own runs (last epoch)")
    assert shown("dkd").reference.endswith("; own runs or copied: not stated (best epoch on the test set)")
    secondary = published.Published(70.0, None, "unknown", "a paper as quoted by a note; secondary source")
    assert secondary.origin == "copied"
    assert secondary.reference.endswith("; copied (epoch not stated)")


def test_the_file_is_complete_and_uses_our_names():
    rows = published.load()
    assert len(rows) == 1063
    assert not rows.drop(columns="std").isna().any().any()
    assert not rows.teacher.str.contains("wrn_").any()
    assert not rows.student.str.contains("wrn_").any()
    assert rows.value.between(0, 100).all()
    assert set(rows.metric) == {"top1", "top5"}
    assert set(rows.label[rows.method == "ce"]) == {"Student(vanilla)"}


def test_third_party_and_ablation_rows_are_kept_but_never_shown():
    rows = published.load()
    bracketed = rows[rows.label.str.contains("[", regex=False)]
    assert len(bracketed) == 26  # 12 of third parties, 14 of an ablation
    assert not set(bracketed.method) & {"teacher", "ce", "kd", "dkd", "crd", "fitnet", "clkd"}
    for preset in ("clkd", "clkd_a1", "clkd_a2", "clkd_letter"):
        assert published.find("cifar100", "resnet32x4", "resnet8x4", preset) is None
    assert published.find("cifar100", "resnet56", "resnet20", "clkd") is None
    assert published.find("cifar100", "resnet32", "resnet8", "kd") is None


def test_baselines_come_from_any_pair_with_the_same_network():
    """No source prints these two together, but each is RepDistiller's number for the network alone."""
    student = published.find("cifar100", "resnet56", "wrn16_2", "ce")
    teacher = published.find("cifar100", "vgg13", "wrn40_1", "teacher")
    assert student is not None and student.value == 73.26
    assert teacher is not None and teacher.value == 74.64
    assert published.find("cifar100", "resnet56", "wrn16_2", "kd") is None


def test_unpublished_results_are_none():
    assert published.find("digits", "wrn40_2", "wrn16_2", "kd") is None
    assert published.find("cifar100", "wrn40_2", "nothing", "ce") is None
    assert published.pair_order("digits") == {}
    assert list(published.pair_order("cifar100"))[:2] == ["wrn40_2-wrn16_2", "wrn40_2-wrn40_1"]


def test_methods_since_2023_have_the_values_of_their_authors():
    for method, value in {"wkd_l": 76.53, "wkd_f": 76.77, "wkd_lf": 77.28}.items():
        accuracy = published.find("cifar100", "resnet32x4", "resnet8x4", method)
        assert accuracy is not None and (accuracy.value, accuracy.rule) == (value, "unknown")
        assert accuracy.source.startswith("JiamingLv/WKD@214cf88")
    gkl = published.find("imagenet", "ResNet34", "ResNet18", "gkl")
    assert gkl is not None and gkl.value == 71.91


# ImageNet top-1 and top-5 of the two pairs that the field's tables have: ResNet34-ResNet18, then ResNet50-MobileNetV1.
IMAGENET = {
    "teacher": ((73.31, 91.42), (76.16, 92.86)),
    "ce": ((69.75, 89.07), (68.87, 88.76)),
    "kd": ((71.03, 90.05), (70.50, 89.80)),
    "at": ((70.69, 90.01), (69.56, 89.33)),
    "ofd": ((70.81, 89.98), (71.25, 90.34)),
    "crd": ((71.17, 90.13), (71.37, 90.41)),
    "reviewkd": ((71.61, 90.51), (72.56, 91.00)),
    "dkd": ((71.70, 90.41), (72.05, 91.05)),
    "dist": ((72.07, None), (73.24, None)),
}


@pytest.mark.parametrize("method", IMAGENET)
def test_imagenet_has_the_values_of_the_fields_tables(method):
    for pair, expected in zip((("ResNet34", "ResNet18"), ("ResNet50", "MobileNetV1")), IMAGENET[method], strict=True):
        shown = [published.find("imagenet", *pair, method, metric) for metric in ("top1", "top5")]
        assert tuple(value and value.value for value in shown) == expected
        assert all(value.source and value.rule in published.RULES for value in shown if value)
    assert published.epochs("imagenet") == 100 and published.epochs("cifar100") == 240


def test_the_rules_of_imagenet_values_are_known_where_their_source_is():
    rules = {}
    for method in ("kd", "dkd", "lskd", "crd"):
        accuracy = published.find("imagenet", "ResNet34", "ResNet18", method)
        rules[method] = accuracy and accuracy.rule
    assert rules == {"kd": "best", "dkd": "best", "lskd": "best", "crd": "unknown"}
