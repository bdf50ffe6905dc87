"""The networks: sizes, maps, names and values as published, and a forward pass that gives just what is needed."""

import csv
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmark import networks
from benchmark.errors import UserError
from benchmark.networks import build, canonical, shapes, split_pair
from benchmark.networks.layers import shuffle
from methods.contract import Needs

FAMILIES = ["resnet8", "resnet8x4", "wrn16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18"]
COUNTS = list(csv.DictReader(Path(__file__).with_name("model_params.csv").read_text().splitlines()))

# (channels, size) of each stage's map for 32 px, and the pooled features, from the published code
RESNET = ([(16, 32), (16, 32), (32, 16), (64, 8)], 64)
RESNET_X4 = ([(32, 32), (64, 32), (128, 16), (256, 8)], 256)
VGG = ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512)
TAPS = {
    "resnet8": RESNET,
    "resnet110": RESNET,
    "resnet8x4": RESNET_X4,
    "resnet32x4": RESNET_X4,
    "wrn16_1": RESNET,
    "wrn40_2": ([(16, 32), (32, 32), (64, 16), (128, 8)], 128),
    "vgg8": VGG,
    "vgg19": VGG,
    "MobileNetV2": ([(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "ShuffleV1": ([(24, 32), (240, 16), (480, 8), (960, 4)], 960),
    "ShuffleV2": ([(24, 32), (116, 16), (232, 8), (464, 4)], 1024),
    "ResNet18": ([(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)], 512),
    "ResNet50": ([(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)], 2048),
}

# Logits [0, 0] and [1, 6] and the norm of all, in evaluation mode and float64, with the weights and images of
# `fill_by_name`: computed with a transcription of RepDistiller's and mdistiller's forward passes, not with this code.
PUBLISHED = {
    "resnet8": (0.8467232103, 3.645735942, 16.64907417),
    "resnet20": (-815.8058492, -29.45971576, 2565.33731),
    "resnet8x4": (-0.3839025585, -0.3288957498, 6.243139668),
    "wrn16_1": (-37.02873496, 32.90637743, 99.96900873),
    "wrn40_2": (-0.4168037777, -1.215765012, 4.120855208),
    "vgg8": (1.157726118, 1.960847824, 5.265774725),
    "vgg13": (1.301780156, 1.760621146, 5.085021962),
    "MobileNetV2": (5.741199416, 1.725125687, 15.34141692),
    "ShuffleV1": (-661.0387954, 188.674678, 1398.232659),
    "ShuffleV2": (1.857921592, 0.07283530092, 5.326346257),
    "ResNet18": (3.564988367, 6.589632483, 20.56974246),
    "ResNet50": (-0.9618459652, -2.484152825, 12.39641133),
}

# Entries of the published state dictionaries, one of each kind
PUBLISHED_NAMES = {
    "resnet8": "conv1.weight bn1.running_var layer1.0.conv1.weight layer1.0.bn2.bias layer2.0.downsample.0.weight "
    "layer3.0.downsample.1.running_mean fc.weight fc.bias",
    "wrn16_2": "conv1.weight block1.layer.0.bn1.weight block1.layer.0.convShortcut.weight block2.layer.1.conv2.weight "
    "block3.layer.1.bn2.num_batches_tracked bn1.weight fc.weight fc.bias",
    "vgg8": "block0.0.weight block0.0.bias block0.1.running_mean block4.0.weight block4.1.bias classifier.weight",
    "vgg13": "block1.3.weight block1.4.running_var block4.3.bias classifier.bias",
    "MobileNetV2": "conv1.0.weight conv1.1.weight blocks.0.0.conv.0.weight blocks.5.2.conv.7.bias "
    "blocks.6.0.conv.3.weight conv2.0.weight conv2.1.running_var classifier.0.weight classifier.0.bias",
    "ShuffleV1": "conv1.weight bn1.weight layer1.0.conv1.weight layer2.7.conv3.weight layer3.3.bn3.bias linear.weight",
    "ShuffleV2": "conv1.weight layer1.0.conv5.weight layer1.0.bn5.bias layer2.7.conv3.weight layer3.3.bn3.weight "
    "conv2.weight bn2.weight linear.bias",
    "ResNet18": "conv1.weight layer2.0.shortcut.0.weight layer4.1.conv2.weight linear.weight",
    "ResNet50": "bn1.weight layer1.0.shortcut.0.weight layer1.0.conv3.weight layer4.2.bn3.weight linear.bias",
}


def seeded(name, classes=10, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(name, classes)


def images(n, size, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def all_of(network):
    stages = range(network.stages)
    return Needs.of(logits=True, pooled=True, maps=stages, preact=stages)


def snapshot(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def same_state(network, before):
    return all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def fill_by_name(network):
    """Weights from a formula of the entry's place among the sorted names and the element's place in the tensor."""
    for j, (key, tensor) in enumerate(sorted(network.state_dict().items())):
        if key.endswith("num_batches_tracked"):
            continue
        w = torch.cos(j + 0.37 * torch.arange(tensor.numel(), dtype=torch.float64)).reshape(tensor.shape)
        if tensor.ndim > 1:
            w = w * math.sqrt(2 / tensor[0].numel())
        elif key.endswith(("weight", "running_var")):
            w = 1 + 0.3 * w
        else:
            w = 0.1 * w
        tensor.copy_(w)


@pytest.mark.parametrize("classes", ["10", "100", "200"])
def test_parameter_counts_are_the_published_ones(classes):
    rows = [row for row in COUNTS if row["classes"] == classes]
    assert len(rows) == 32
    with torch.device("meta"):
        counts = {r["model"]: sum(p.numel() for p in build(r["model"], int(classes)).parameters()) for r in rows}
    assert counts == {r["model"]: int(r["parameters"]) for r in rows}


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_equal_those_of_the_published_code(name):
    network = build(name, 7).double().eval()
    fill_by_name(network)
    x = torch.cos(0.11 * torch.arange(2 * 3 * 32 * 32, dtype=torch.float64) ** 1.01).reshape(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(x).logits
    assert (logits[0, 0].item(), logits[1, 6].item(), logits.norm().item()) == pytest.approx(PUBLISHED[name], rel=1e-6)


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_entries_have_the_published_names(name):
    with torch.device("meta"):
        keys = build(name, 10).state_dict().keys()
    assert set(PUBLISHED_NAMES[name].split()) <= keys


def test_a_shortcut_has_weights_only_where_the_shape_changes():
    with torch.device("meta"):
        resnet, x4, wrn1 = (build(n, 10).state_dict().keys() for n in ("resnet8", "resnet8x4", "wrn16_1"))
    assert "layer1.0.downsample.0.weight" not in resnet
    assert "layer1.0.downsample.0.weight" in x4
    assert "block1.layer.0.convShortcut.weight" not in wrn1
    assert "block2.layer.0.convShortcut.weight" in wrn1


@pytest.mark.parametrize("name", TAPS)
def test_maps_and_pooled_features_have_the_published_shapes(name):
    with torch.device("meta"):
        network = build(name, 10)
    stages, pooled = TAPS[name]
    assert shapes(network, 32).stages == tuple((c, s, s) for c, s in stages)
    assert shapes(network, 32).pooled == pooled


@pytest.mark.parametrize("name", networks.names())
def test_shapes_are_those_of_a_real_pass(name):
    network = build(name, 3).eval()
    for size in (16, 32):
        with torch.no_grad():
            out = network(images(1, size), all_of(network))
        told = shapes(network, size)
        assert told.stages == tuple(tuple(out.maps[k].shape[1:]) for k in range(network.stages))
        assert told.stages == tuple(tuple(out.preact[k].shape[1:]) for k in range(network.stages))
        assert told.pooled == out.pooled.shape[1]
        assert out.logits.shape == (1, 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_change_nothing(name):
    network = build(name, 10).train()
    network.get_submodule("bn1" if hasattr(network, "bn1") else next(iter(network._modules))).eval()
    state, modes, random = snapshot(network), [m.training for m in network.modules()], torch.get_rng_state()
    shapes(network, 32)
    assert same_state(network, state)
    assert [m.training for m in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.device.type == "cpu" and p.requires_grad for p in network.parameters())


def test_too_small_images_are_refused():
    with pytest.raises(UserError, match="4 px"):
        shapes(build("vgg8", 10), 4)


def test_vgg_pools_before_its_last_stage_for_64_px_only():
    network = build("vgg8", 10)
    assert [s[1] for s in shapes(network, 64).stages] == [64, 32, 16, 8, 4]
    assert [s[1] for s in shapes(network, 32).stages] == [32, 16, 8, 4, 4]
    assert [s[1] for s in shapes(network, 16).stages] == [16, 8, 4, 2, 2]


@pytest.mark.parametrize("name", FAMILIES)
def test_just_what_is_needed_is_given_and_it_is_the_same(name):
    network = seeded(name).eval()
    x = images(2, 16)
    with torch.no_grad():
        full = network(x, all_of(network))
        plain = network(x)
        assert (plain.pooled, plain.maps, plain.preact) == (None, {}, {})
        assert torch.equal(plain.logits, full.logits)

        pooled = network(x, Needs.of(pooled=True))
        assert (pooled.logits, pooled.maps, pooled.preact) == (None, {}, {})
        assert torch.equal(pooled.pooled, full.pooled)

        for k in range(network.stages):
            early = network(x, Needs.of(maps=[k], preact=[max(0, k - 1)]))
            assert (early.logits, early.pooled) == (None, None)
            assert (set(early.maps), set(early.preact)) == ({k}, {max(0, k - 1)})
            assert torch.equal(early.maps[k], full.maps[k])
            assert torch.equal(early.preact[max(0, k - 1)], full.preact[max(0, k - 1)])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["maps", "preact"])
def test_no_stage_is_run_beyond_the_last_one_needed(name, kind):
    network = seeded(name).eval()
    run = []
    stage = network.stage
    network.stage = lambda k, *rest: run.append(k) or stage(k, *rest)
    network.features = lambda x: pytest.fail("pooled")
    network(images(2, 16), Needs.of(**{kind: [1]}))
    assert run == [0, 1]
    network(images(2, 16), Needs())
    assert run == [0, 1]


def test_a_stage_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"stages 0 to 3, not \[4\]"):
        build("resnet8", 10)(images(1, 16), Needs.of(maps=[1, 4]))


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "vgg8", "ShuffleV1", "ResNet18"])
def test_maps_are_the_relu_of_their_preactivations(name):
    network = seeded(name).train()
    out = network(images(4, 16), all_of(network))
    for k in range(network.stages):
        assert torch.equal(F.relu(out.preact[k]), out.maps[k])
        assert (out.preact[k] < 0).any()


def test_preactivations_of_shufflenet_v2_are_in_the_order_before_the_shuffle():
    network = seeded("ShuffleV2").train()
    out = network(images(4, 16), all_of(network))
    assert torch.equal(F.relu(out.preact[0]), out.maps[0])
    for k in (1, 2, 3):
        before = F.relu(out.preact[k])
        kept, worked = before.chunk(2, 1)
        assert torch.equal(torch.stack([kept, worked], 2).flatten(1, 2), out.maps[k])
        assert (out.preact[k] < 0).any()


def test_preactivations_of_mobilenet_are_the_linear_maps():
    network = seeded("MobileNetV2").train()
    out = network(images(4, 16), all_of(network))
    assert torch.equal(F.relu(out.preact[0]), out.maps[0])
    assert (out.preact[0] < 0).any()
    assert all(torch.equal(out.preact[k], out.maps[k]) and (out.maps[k] < 0).any() for k in (1, 2, 3, 4))


@pytest.mark.parametrize("training", [True, False])
def test_preactivations_of_wrn_are_what_the_following_batch_norm_gives(training):
    network = seeded("wrn16_2").train(training)
    following = [network.get_submodule(f"block{k}.layer.0.bn1") for k in (1, 2, 3)] + [network.bn1]
    seen = {}
    for k, bn in enumerate(following):
        torch.nn.init.uniform_(bn.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(k))
        bn.register_forward_hook(lambda module, args, out, k=k: seen.setdefault(k, out.detach().clone()))
    out = network(images(4, 16), all_of(network))
    for k in range(4):
        torch.testing.assert_close(out.preact[k], seen[k])
        assert (out.preact[k] < 0).any()


def test_preactivations_of_wrn_leave_batch_norm_as_a_plain_step_does():
    x = images(4, 16)
    plain, asked, early = (seeded("wrn16_2").train() for _ in range(3))
    plain(x)
    asked(x, all_of(asked))
    assert same_state(asked, snapshot(plain))

    early(x, Needs.of(preact=[1]))
    fresh = snapshot(seeded("wrn16_2"))
    for key, value in early.state_dict().items():
        was_run = key.startswith(("conv1", "block1"))
        assert torch.equal(value, plain.state_dict()[key] if was_run else fresh[key]), key


@pytest.mark.parametrize("name", FAMILIES)
def test_asking_for_more_leaves_a_step_as_it_is(name):
    x = images(4, 16)
    plain, asked = seeded(name).train(), seeded(name).train()
    plain(x).logits.square().mean().backward()
    asked(x, all_of(asked)).logits.square().mean().backward()
    assert same_state(asked, snapshot(plain))
    for p, q in zip(plain.parameters(), asked.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("name", [*FAMILIES, "ResNet50"])
def test_every_parameter_gets_a_gradient(name):
    network = seeded(name).train()
    F.cross_entropy(network(images(4, 16)).logits, torch.arange(4)).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


def test_initialisation_follows_the_seed():
    one, again, other = seeded("wrn16_2", seed=1), seeded("wrn16_2", seed=1), seeded("wrn16_2", seed=2)
    assert same_state(again, snapshot(one))
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize(
    ("name", "key", "deviation"),
    [
        ("resnet8x4", "layer3.0.conv2.weight", math.sqrt(2 / (9 * 256))),
        ("ResNet18", "layer2.0.shortcut.0.weight", math.sqrt(2 / 128)),
        ("wrn16_2", "block3.layer.0.conv1.weight", math.sqrt(2 / (9 * 128))),
        ("vgg8", "block3.0.weight", math.sqrt(2 / (9 * 512))),
        ("vgg8", "classifier.weight", 0.01),
        ("MobileNetV2", "blocks.5.1.conv.3.weight", math.sqrt(2 / (9 * 480))),  # depthwise: all channels count
        ("MobileNetV2", "classifier.0.weight", 0.01),
        ("ShuffleV2", "conv2.weight", math.sqrt(1 / (3 * 464))),  # PyTorch's own: uniform of variance 1/(3 fan-in)
        ("wrn16_2", "fc.weight", math.sqrt(1 / (3 * 128))),
    ],
)
def test_weights_are_spread_as_published(name, key, deviation):
    weight = seeded(name, classes=100).state_dict()[key]
    assert weight.std().item() == pytest.approx(deviation, rel=0.06)
    assert abs(weight.mean().item()) < 4 * deviation / math.sqrt(weight.numel())


def test_biases_start_at_zero_where_published_so():
    assert all(not seeded(n).state_dict()[k].any() for n, k in [("wrn16_2", "fc.bias"), ("vgg8", "classifier.bias")])
    assert seeded("resnet8").fc.bias.any()


def test_shuffle_takes_one_channel_of_each_group_in_turn():
    x = torch.arange(12.0).reshape(1, 12, 1, 1).expand(2, 12, 3, 2)
    assert shuffle(x, 3)[1, :, 2, 1].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert torch.equal(shuffle(x, 1), x)


def test_a_pass_is_one_graph_without_breaks():
    network = seeded("wrn16_1").eval()
    x, needs = images(2, 16), Needs.of(logits=True, maps=[2], preact=[1])
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)(x, needs)
        assert torch.equal(compiled.logits, network(x).logits)
        assert (set(compiled.maps), set(compiled.preact)) == ({2}, {1})


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("resnet20", "resnet20"),
        ("ResNet20", "resnet20"),
        ("resnet_32x4", "resnet32x4"),
        ("resnet26", "resnet26"),
        ("resnet50", "ResNet50"),
        ("RESNET18", "ResNet18"),
        ("wrn_40_2", "wrn40_2"),
        ("WRN28_10", "wrn28_10"),
        ("vgg_13", "vgg13"),
        ("mobilenetv2", "MobileNetV2"),
        ("MobileNet_V2", "MobileNetV2"),
        ("mobile_half", "MobileNetV2"),
        ("shufflev1", "ShuffleV1"),
        ("ShuffleNetV2", "ShuffleV2"),
    ],
)
def test_spellings(spelling, name):
    assert canonical(spelling) == name


def test_usual_names_are_canonical_and_unlike():
    assert [canonical(n) for n in networks.names()] == networks.names()
    assert len(set(networks.names())) == len(networks.names()) == 25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", "6n+2 with n of 1 or more; did you mean resnet20?"),
        ("resnet2", "did you mean resnet8?"),
        ("resnet30x4", "did you mean resnet32x4?"),
        ("wrn41_2", "6n+4 with n of 1 or more; did you mean wrn40_2?"),
        ("wrn40_0", "unknown network 'wrn40_0'; did you mean wrn40_"),
        ("vgg12", "did you mean vgg1"),
        ("MobileNetV3", "did you mean MobileNetV2"),
        ("", "unknown network ''; known: "),
    ],
)
def test_unknown_networks_are_answered_with_the_nearest(name, message):
    for asked in (canonical, networks.is_light, lambda n: build(n, 10)):
        with pytest.raises(UserError) as error:
            asked(name)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_pairs():
    assert split_pair("wrn40_2-wrn16_2") == ("wrn40_2", "wrn16_2")
    assert split_pair("resnet50-mobilenetv2") == ("ResNet50", "MobileNetV2")
    for pair in ("wrn40_2", "wrn-40-2-wrn-16-2", "wrn40_2-", "-", ""):
        with pytest.raises(UserError, match="is not <teacher>-<student> with one hyphen"):
            split_pair(pair)
    with pytest.raises(UserError, match=r"unknown network 'vgg12'"):
        split_pair("vgg13-vgg12")


def test_light_networks():
    light = [n for n in networks.names() if networks.is_light(n)]
    assert light == ["MobileNetV2", "ShuffleV1", "ShuffleV2"]
    assert networks.is_light("mobile_half")


@pytest.mark.parametrize("name", FAMILIES)
def test_pooled_features_and_logits_are_averages_of_the_final_map_and_the_activation_maps(name):
    network = seeded(name).eval()
    with torch.no_grad():
        out = network(images(2, 32), Needs.of(logits=True, pooled=True, final=True, cams=[1, 2, 3]))
        early = network(images(2, 32), Needs.of(final=True))
    torch.testing.assert_close(out.final.mean((2, 3)), out.pooled)
    with torch.no_grad():  # the classifier on every position, then the mean over each cell
        every = network.head(out.final.movedim(1, 3)).movedim(3, 1)
    side = every.shape[2]
    for m, cams in out.cams.items():
        edges = [(i * side // m, -(-(i + 1) * side // m)) for i in range(m)]
        cells = [[every[:, :, a:b, c:d].mean((2, 3)) for c, d in edges] for a, b in edges]
        expected = torch.stack([torch.stack(row, 2) for row in cells], 2)
        torch.testing.assert_close(cams, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.cams[1][:, :, 0, 0], out.logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(early.final, out.final) and early.logits is None
    told = shapes(network, 32)
    assert told.final == tuple(out.final.shape[1:]) and told.pooled == told.final[0]
    assert (out.final >= 0).all()


@pytest.mark.parametrize("name", ["resnet14", "resnet8x4", "wrn16_2", "vgg8", "ResNet50"])
def test_norms_are_those_whose_output_is_the_preactivation(name):
    """With the batch norm's weight and bias nought, its summand of the pre-activation vanishes."""
    network = seeded(name).eval()
    assert shapes(network, 32).norms
    for k in range(network.stages):
        with torch.no_grad():
            network.norm(k).weight.copy_(-2 * torch.ones_like(network.norm(k).weight))
            network.norm(k).bias.fill_(3.0)
        bias, scale = network(images(1, 32), Needs.of(norms=[k])).norms[k]
        assert bias.unique().tolist() == [3.0] and scale.unique().tolist() == [2.0]
        assert not bias.requires_grad
        before = network(images(2, 32), Needs.of(preact=[k])).preact[k]
        with torch.no_grad():
            network.norm(k).bias.add_(5.0)
        after = network(images(2, 32), Needs.of(preact=[k])).preact[k]
        torch.testing.assert_close(after - before, torch.full_like(before, 5.0), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_networks_without_such_norms_say_so(name):
    assert not shapes(seeded(name), 32).norms
