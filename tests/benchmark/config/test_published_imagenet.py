"""Values that methods were published with on ImageNet: weights, batch size and rate of the two classic pairs."""

import pytest

from benchmark.config.compose import MethodComposer, load_config
from benchmark.grid.identity import network_recipe
from benchmark.networks import imagenet_pair

R18, MBV1 = "ResNet34-ResNet18", "ResNet50-MobileNetV1"
WORDS = ["profile=imagenet", "methods=all"]
PUBLISHED = [  # of mdistiller's and the authors' configs: pair, method, values, batch size and rate
    (R18, "kd", {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}, (512, 0.2)),
    (R18, "dkd", {"temperature": 1.0, "alpha": 1.0, "beta": 0.5, "warmup": 1.0}, (512, 0.2)),
    (MBV1, "dkd", {"temperature": 1.0, "alpha": 1.0, "beta": 2.0, "warmup": 1.0}, (512, 0.2)),
    (R18, "at", {"at_weight": 1000.0}, (512, 0.2)),
    (R18, "crd", {"crd_weight": 0.8}, (256, 0.1)),
    (MBV1, "ofd", {"ofd_weight": 1e-4}, (128, 0.05)),
    (R18, "ofd", {"ofd_weight": 1e-3}, (256, 0.1)),
    (R18, "reviewkd", {"reviewkd_weight": 1.0, "warmup": 1.0}, (256, 0.1)),
    (MBV1, "reviewkd", {"reviewkd_weight": 8.0, "warmup": 1.0}, (256, 0.1)),
    (R18, "dot", {"delta": 0.09, "temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}, (512, 0.2)),
    (R18, "dist", {"ce_weight": 1.0, "dist_weight": 2.0, "temperature": 1.0}, (256, 0.1)),
    (R18, "lskd", {"temperature": 2.0, "kd_weight": 9.0, "ce_weight": 1.0, "standardise": True}, (512, 0.2)),
    (MBV1, "lskd", {"temperature": 2.0, "kd_weight": 9.0, "ce_weight": 0.5}, (512, 0.2)),
    (MBV1, "rld", {"beta": 2.0}, (512, 0.2)),
    (R18, "mlld", {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}, (512, 0.1)),
    (MBV1, "mlld", {"temperature": 1.0}, (512, 0.2)),
    (R18, "gdkd", {"temperature": 1.0, "w0": 0.5, "w1": 1.0, "w2": 1.0, "warmup": 1.0}, (512, 0.2)),
    (MBV1, "gdkd", {"w0": 0.5, "w1": 2.0, "w2": 2.0}, (512, 0.2)),
    (R18, "wkd_lf", {"wkd_l.wkd_weight": 10.0, "wkd_f.wkd_weight": 1.0, "wkd_f.grid": 4}, (256, 0.1)),
    (R18, "crd_kd", {"crd.ce_weight": 1.0, "kd.ce_weight": 0.0, "kd.kd_weight": 1.0}, (256, 0.1)),
    (R18, "ce", {}, (256, 0.1)),
    (R18, "clkd", {"mu": 10.0}, (256, 0.1)),
]


@pytest.mark.parametrize(("pair", "name", "values", "recipe"), PUBLISHED)
def test_published_values_on_imagenet(pair, name, values, recipe):
    method = MethodComposer(WORDS).method(name, pair)
    assert {key: method.values[key] for key in values} == values
    resolved = network_recipe(load_config(WORDS), pair.split("-")[1], method)
    assert (resolved["batch_size"], resolved["lr"]) == recipe
    assert "per_method" not in resolved
    assert method.changed == []


def test_networks_of_timm_have_the_values_of_their_usual_names():
    assert imagenet_pair("timm/resnet34-timm/resnet18") == R18
    assert imagenet_pair("timm/resnet50-timm/mobilenetv1_100") == MBV1
    assert imagenet_pair("resnet56-timm/vit_tiny_patch16_224") == "resnet56-timm/vit_tiny_patch16_224"
    method = MethodComposer(WORDS).method("dkd", "timm/resnet34-timm/resnet18")
    assert method.values["beta"] == 0.5


@pytest.mark.parametrize("name", ["kd", "dkd", "reviewkd", "wkd_l", "crd_kd"])
def test_they_are_of_imagenet_alone(name):
    """The same pair has the values of CIFAR-100 on CIFAR-100, and its recipe."""
    there, elsewhere = (MethodComposer(["profile=paper"]).method(name, pair) for pair in (R18, "resnet20-resnet8"))
    assert there.values == elsewhere.values and there.recipe == elsewhere.recipe == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (512, 0.2)),
        (["recipe.batch_size=64"], (64, 0.2)),
        (["recipe.lr=0.05"], (512, 0.05)),
        (["recipe.per_method=false"], (256, 0.1)),
    ],
)
def test_an_override_of_the_command_counts(words, expected):
    words = [*WORDS, *words]
    recipe = network_recipe(load_config(words), "ResNet18", MethodComposer(words).method("kd", R18))
    assert (recipe["batch_size"], recipe["lr"]) == expected
