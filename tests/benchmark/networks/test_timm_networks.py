"""Networks of timm behind the common interface: names, sizes, outputs, shapes, and what they do not provide."""

import copy
import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark import networks
from benchmark.errors import UserError
from benchmark.networks import build, canonical, output_shapes, shapes, split_pair
from benchmark.networks.base import meta_shapes
from benchmark.networks.checkpoints import load_foreign
from methods.contract import Needs
from tests.conftest import ROOT

PARAMETERS = Path(__file__).with_name("model_params_imagenet.csv")
SMALL = "timm/test_resnet"  # timm's own networks for tests: a few thousand to a few hundred thousand weights
SMALL_VIT = "timm/test_vit"


def images(n=2, size=32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def network_of(name, classes=5, size=32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(name, classes, size).eval()


def everything(network):
    kinds = {kind: kind not in network.missing for kind in ("pooled", "last_map")}
    stages = range(network.stages)
    pre_activations = () if "pre_activations" in network.missing else stages
    class_maps = () if "class_maps" in network.missing else (2,)
    return Needs(logits=True, maps=stages, pre_activations=pre_activations, class_maps=class_maps, **kinds)


def test_names():
    assert canonical("timm/ResNet18") == "timm/resnet18"
    assert canonical("timm/resnet18.a1_in1k") == "timm/resnet18.a1_in1k"
    assert canonical("mobilenet_v1") == "MobileNetV1"
    assert split_pair("timm/resnet34-timm/vit_tiny_patch16_224") == ("timm/resnet34", "timm/vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"unknown network 'timm/resnet19'; did you mean .*resnet1"):
        canonical("timm/resnet19")
    with pytest.raises(UserError, match=r"timm has no weights 'resnet18\.a9_in1k'; did you mean resnet18\.a"):
        canonical("timm/resnet18.a9_in1k")
    assert not networks.is_light("timm/resnet18") and not networks.is_light("MobileNetV1")


@pytest.mark.parametrize("row", list(csv.DictReader(PARAMETERS.read_text().splitlines())), ids=lambda row: row["model"])
def test_the_names_of_the_imagenet_tables_have_the_published_parameter_counts(row):
    with torch.device("meta"):
        network = build(row["model"], int(row["classes"]), 224)
    assert sum(p.numel() for p in network.parameters()) == int(row["parameters"])


def test_a_resnet_of_the_tables_has_the_stem_of_its_image_size():
    small, large = (output_shapes("ResNet18", 10, size) for size in (32, 224))
    assert [size for _, size, _ in small.stages] == [32, 32, 16, 8, 4]
    assert [size for _, size, _ in large.stages] == [112, 56, 28, 14, 7]


@pytest.mark.parametrize(
    "name", [SMALL, SMALL_VIT, "timm/test_efficientnet", "timm/test_convnext", "timm/test_byobnet"]
)
def test_outputs_have_the_shapes_of_the_meta_build_and_the_logits_of_timm(name):
    network, x = network_of(name, size=64), images(size=64)
    expected = output_shapes(name, 5, 64)
    with torch.no_grad():
        outputs = network(x, everything(network))
        assert torch.equal(network.model(x), network(x).logits)
        torch.testing.assert_close(outputs.logits, network.model(x))
    assert [tuple(outputs.maps[k].shape[1:]) for k in range(network.stages)] == list(expected.stages)
    assert outputs.pooled.shape == (2, expected.pooled) and outputs.logits.shape == (2, 5)
    assert expected == shapes(network, 64)
    if "last_map" not in network.missing:
        torch.testing.assert_close(outputs.last_map.mean((2, 3)), outputs.pooled)
        assert tuple(outputs.last_map.shape[1:]) == expected.last_map
        torch.testing.assert_close(outputs.class_maps[2].mean((2, 3)), outputs.logits)


def test_pre_activations_of_a_resnet_are_read_before_the_last_relu():
    network = network_of(SMALL)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(generator=torch.Generator().manual_seed(1))
        outputs = network(images(), everything(network))
    for k in range(network.stages):
        assert (outputs.pre_activations[k] < 0).any()
        assert torch.equal(outputs.pre_activations[k].relu(), outputs.maps[k])
        assert isinstance(network.batch_norm(k), nn.BatchNorm2d)
    assert output_shapes(SMALL, 5, 32).batch_norms


def test_a_mobilenet_v1_provides_what_the_field_reads_of_it():
    with torch.device("meta"):
        network = build("MobileNetV1", 1000, 224)
    assert not network.missing and network.stages == 5 and output_shapes("MobileNetV1", 1000, 224).batch_norms
    assert [tuple(s) for s in output_shapes("MobileNetV1", 1000, 224).stages] == [
        (64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7),
    ]  # fmt: skip


def test_a_transformer_has_five_stages_whose_pre_activations_are_their_maps():
    network = network_of(SMALL_VIT, size=64)
    assert network.missing == {"last_map", "class_maps"}
    with torch.no_grad():
        outputs = network(images(size=64), everything(network))
    assert all(outputs.maps[k].shape[2:] == (4, 4) for k in range(network.stages))
    assert all(torch.equal(outputs.pre_activations[k], outputs.maps[k]) for k in range(network.stages))
    assert output_shapes("timm/vit_tiny_patch16_224", 10, 64).stages == ((192, 4, 4),) * 5


def test_a_network_runs_no_deeper_than_needed():
    network = network_of(SMALL)
    executed = []
    for name, module in network.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: executed.append(name))
    outputs = network(images(), Needs(maps=[1]))
    assert outputs.logits is None and "layer1" in executed and "layer2" not in executed


def test_a_copy_reads_its_own_activations():
    network = network_of(SMALL)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        next(twin.parameters()).mul_(2)
        ours, copied = (n(images(), Needs(pre_activations=[0])).pre_activations[0] for n in (network, twin))
    assert not torch.equal(ours, copied)


def test_gradients_reach_every_weight_through_logits_and_maps():
    network = network_of(SMALL).train()
    outputs = network(images(4), Needs(logits=True, maps=[2]))
    (outputs.logits.sum() + outputs.maps[2].sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_stages_and_outputs_that_a_network_lacks_are_an_error():
    network = network_of(SMALL_VIT, size=64)
    with pytest.raises(ValueError, match=r"has the stages 0 to 4, not \[5\]"):
        network(images(size=64), Needs(maps=[5]))
    with pytest.raises(ValueError, match="does not provide last_map"):
        network(images(size=64), Needs(last_map=True))


def test_a_size_that_does_not_suit_a_network_is_an_error_of_one_line():
    with pytest.raises(UserError, match="cannot run on images of 16 px") as error:
        output_shapes("timm/inception_v3", 10, 16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_state_dict_of_timm_loads_strictly(suffix, tmp_path):
    source = timm.create_model("test_resnet", num_classes=5)
    path = tmp_path / f"weights{suffix}"
    torch.save({"state_dict": source.state_dict()}, path) if suffix == ".pth" else save_file(source.state_dict(), path)
    network = network_of(SMALL)
    load_foreign(path, network, SMALL)
    with torch.no_grad():
        assert torch.equal(network(images()).logits, source.eval()(images()))
    with pytest.raises(UserError, match="has 5 classes, this data set has 7"):
        load_foreign(path, build(SMALL, 7), SMALL)
    with pytest.raises(UserError, match="fits neither resnet8 nor another network"):
        load_foreign(path, build("resnet8", 5), "resnet8")


def test_without_timm_its_networks_are_an_error_that_says_how_to_install_it(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "timm" else real(name, *rest))
    message = r"^network '{}' is one of timm, which is not installed: pip install 'kd-benchmark\[timm\]'$"
    for name, size in ((SMALL, 32), ("MobileNetV1", 32), ("ResNet18", 224)):
        with pytest.raises(UserError, match=message.format(name)):
            build(name, 5, size)
    assert build("ResNet18", 5, 32) and "MobileNetV1" in networks.names()  # which do not need timm


def test_the_suite_starts_without_importing_timm():
    code = "import sys, benchmark.networks as n; n.canonical('MobileNetV1'); n.names(); sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    ["resnet26d", "seresnet33ts", "mobilenetv3_small_050", "densenet121", "swin_tiny_patch4_window7_224", "dla34",
     "mobilevit_xxs", "regnetx_002", "convnext_atto", "deit_tiny_distilled_patch16_224", "mixer_s32_224",
     "inception_v3"],
)  # fmt: skip
def test_shapes_without_torchs_meta_kernels_are_those_with_them(name):
    with torch.device("meta"):
        expected = meta_shapes(build(f"timm/{name}", 7, 224), 224)
    assert output_shapes(f"timm/{name}", 7, 224) == expected
