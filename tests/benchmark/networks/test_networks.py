"""The networks against the field's code: sizes, names, values and initialization; and which outputs a pass returns."""

import csv
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark import networks
from benchmark.errors import UserError
from benchmark.networks import Network, batch_norm_parameters, build, shapes
from benchmark.networks.layers import shuffle
from methods.contract import Needs

FAMILIES = ["resnet8", "resnet8x4", "wrn16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18"]
PARAMETERS = list(csv.DictReader(Path(__file__).with_name("model_params.csv").read_text().splitlines()))

# (channels, size) of each stage's map at 32 px, and the width of the pooled features, from the published code
RESNET = ([(16, 32), (16, 32), (32, 16), (64, 8)], 64)
RESNET_X4 = ([(32, 32), (64, 32), (128, 16), (256, 8)], 256)
VGG = ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512)
SHAPES = {
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

# Logits [0, 0] and [1, 6] and the norm of all logits, in eval mode and float64, with the weights of `fill_weights`:
# computed with a transcription of the forward passes of RepDistiller and mdistiller, not with this code.
LOGITS = {
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

# entries of the published state dictionaries, one of each kind
STATE_KEYS = {
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


def build_seeded(name: str, classes: int = 10, seed: int = 0) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(name, classes)


def build_meta(name: str, classes: int = 10) -> Network:
    with torch.device("meta"):
        return build(name, classes)


def random_images(n: int, size: int) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def all_outputs(network: Network) -> Needs:
    stages = range(network.stages)
    return Needs(logits=True, pooled=True, last_map=True, maps=stages, pre_activations=stages)


def copy_state(network: Network) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


def has_state(network: Network, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def fill_weights(network: Network) -> None:
    """Set weights by a formula of an entry's position among the sorted names and an element's position in it."""
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


# ------------------------------------------------------------ the published networks


def test_parameter_counts_are_the_published_ones():
    """Built for 100 classes; a further class adds a row of weights and a bias to the classifier."""
    models = {name: build_meta(name, 100) for name in {row["model"] for row in PARAMETERS}}
    for row in PARAMETERS:
        network, classes = models[row["model"]], int(row["classes"])
        count = sum(p.numel() for p in network.parameters()) + (classes - 100) * (network.head.in_features + 1)
        assert count == int(row["parameters"]), row
    assert len(models) == 32 and len(PARAMETERS) == 96


@pytest.mark.parametrize("name", LOGITS)
def test_logits_equal_those_of_the_published_code(name):
    network = build(name, 7).double().eval()
    fill_weights(network)
    x = torch.cos(0.11 * torch.arange(2 * 3 * 32 * 32, dtype=torch.float64) ** 1.01).reshape(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(x).logits
    assert (logits[0, 0].item(), logits[1, 6].item(), logits.norm().item()) == pytest.approx(LOGITS[name], rel=1e-6)


def test_state_dictionaries_have_the_published_keys():
    for name, keys in STATE_KEYS.items():
        assert set(keys.split()) <= build_meta(name).state_dict().keys(), name


def test_a_shortcut_has_weights_only_where_the_shape_changes():
    resnet, x4, wrn1 = (build_meta(name).state_dict().keys() for name in ("resnet8", "resnet8x4", "wrn16_1"))
    assert "layer1.0.downsample.0.weight" not in resnet and "layer1.0.downsample.0.weight" in x4
    assert "block1.layer.0.convShortcut.weight" not in wrn1 and "block2.layer.0.convShortcut.weight" in wrn1


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
        ("ShuffleV2", "conv2.weight", math.sqrt(1 / (3 * 464))),  # PyTorch's: uniform of variance 1/(3 fan-in)
        ("wrn16_2", "fc.weight", math.sqrt(1 / (3 * 128))),
    ],
)
def test_initial_weights_have_the_published_standard_deviation(name, key, deviation):
    weight = build_seeded(name, classes=100).state_dict()[key]
    assert weight.std().item() == pytest.approx(deviation, rel=0.06)
    assert abs(weight.mean().item()) < 4 * deviation / math.sqrt(weight.numel())


def test_classifier_biases_are_initialized_to_zero_in_wrn_and_vgg():
    assert not build_seeded("wrn16_2").head.bias.any() and not build_seeded("vgg8").head.bias.any()
    assert build_seeded("resnet8").head.bias.any()


def test_initial_weights_follow_the_seed():
    first, again, other = (build_seeded("wrn16_2", seed=seed) for seed in (1, 1, 2))
    assert has_state(again, copy_state(first)) and not torch.equal(first.head.weight, other.head.weight)


def test_shuffle_takes_one_channel_of_each_group_in_turn():
    x = torch.arange(12.0).reshape(1, 12, 1, 1).expand(2, 12, 3, 2)
    assert shuffle(x, 3)[1, :, 2, 1].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert torch.equal(shuffle(x, 1), x)


# ------------------------------------------------------------ shapes


def test_shapes_are_the_published_ones():
    for name, (stages, pooled) in SHAPES.items():
        network_shapes = shapes(build_meta(name), 32)
        assert network_shapes.stages == tuple((c, s, s) for c, s in stages), name
        assert network_shapes.pooled == pooled == network_shapes.last_map[0], name


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_are_those_of_a_forward_pass_and_change_nothing(name):
    network = build_seeded(name, 3).train()
    network.get_submodule("bn1" if hasattr(network, "bn1") else next(iter(network._modules))).eval()
    state, modes, generator = copy_state(network), [m.training for m in network.modules()], torch.get_rng_state()
    expected = {size: shapes(network, size) for size in (16, 32)}
    assert has_state(network, state) and [m.training for m in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.device.type == "cpu" and p.requires_grad for p in network.parameters())
    for size, sizes in expected.items():
        with torch.no_grad():
            out = network.eval()(random_images(1, size), all_outputs(network))
        for maps in (out.maps, out.pre_activations):
            assert sizes.stages == tuple(tuple(maps[k].shape[1:]) for k in range(network.stages))
        assert (sizes.pooled, sizes.last_map) == (out.pooled.shape[1], tuple(out.last_map.shape[1:]))
        assert out.logits.shape == (1, 3)


@pytest.mark.parametrize("name", networks.names())
def test_output_shapes_and_state_size_are_those_of_the_built_network(name):
    """Of a network with weights: the build of the two skips initialization, and computes shapes by rules of its own."""
    network = networks.build(name, 10)
    for size in (32, 30, 17):  # sizes that strides and poolings round down
        assert networks.output_shapes(name, 10, size) == shapes(network, size)
    assert networks.state_size(name, 10) == sum(value.numel() for value in network.state_dict().values())


def test_images_below_8_pixels_are_an_error():
    with pytest.raises(UserError, match="4 px"):
        shapes(build_meta("vgg8"), 4)


def test_vgg_pools_before_its_last_stage_at_64_pixels_only():
    sizes = {px: [shape[1] for shape in shapes(build_meta("vgg8"), px).stages] for px in (64, 32, 16)}
    assert sizes == {64: [64, 32, 16, 8, 4], 32: [32, 16, 8, 4, 4], 16: [16, 8, 4, 2, 2]}


def test_multiplications_by_hand():
    # resnet8 at 8 px: the stem's 27 · 16 per position, and two 3×3 convolutions in the first group
    stem, first = 64 * 27 * 16, 64 * 2 * 9 * 16 * 16
    assert networks.multiplications("resnet8", 10, 8, Needs(maps=[0])) == stem
    assert networks.multiplications("resnet8", 10, 8, Needs(maps=[1])) == stem + first
    second = 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)
    third = 4 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    assert networks.multiplications("resnet8", 10, 8) == stem + first + second + third + 64 * 10


# ------------------------------------------------------------ outputs


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pass_returns_the_needed_outputs_alone_with_equal_values(name):
    network = build_seeded(name).eval()
    x, stages = random_images(2, 16), range(network.stages)
    with torch.no_grad():
        full = network(x, all_outputs(network))

        @settings(max_examples=12)
        @given(*[st.booleans()] * 3, *[st.sets(st.sampled_from(stages))] * 2)
        def check(logits, pooled, last_map, maps, pre_activations):
            needs = Needs(logits, pooled, maps, pre_activations, last_map)
            out = network(x, needs)
            for kind in ("logits", "pooled", "last_map"):
                value = getattr(out, kind)
                assert (value is not None) == getattr(needs, kind)
                assert value is None or torch.equal(value, getattr(full, kind))
            for kind in ("maps", "pre_activations"):
                values = getattr(out, kind)
                assert values.keys() == getattr(needs, kind)
                assert all(torch.equal(value, getattr(full, kind)[k]) for k, value in values.items())

        check()


@pytest.mark.parametrize("name", FAMILIES)
def test_no_stage_beyond_the_last_needed_one_is_run(name):
    network = build_meta(name).eval()
    run, stage = [], network.stage
    network.stage = lambda k, *rest: run.append(k) or stage(k, *rest)
    network.features = lambda x: pytest.fail("pooled")
    x = torch.empty(2, 3, 16, 16, device="meta")
    for needs in (Needs(maps=[1]), Needs(pre_activations=[1]), Needs()):
        network(x, needs)
    assert run == [0, 1, 0, 1]


def test_a_stage_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"stages 0 to 3, not \[4\]"):
        build("resnet8", 10)(random_images(1, 16), Needs(maps=[1, 4]))


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "vgg8", "ShuffleV1", "ResNet18"])
def test_maps_are_the_relu_of_their_pre_activations(name):
    network = build_seeded(name).train()
    out = network(random_images(4, 16), all_outputs(network))
    for k in range(network.stages):
        assert torch.equal(F.relu(out.pre_activations[k]), out.maps[k]) and (out.pre_activations[k] < 0).any()


def test_pre_activations_of_shufflenet_v2_are_in_the_channel_order_before_the_shuffle():
    network = build_seeded("ShuffleV2").train()
    out = network(random_images(4, 16), all_outputs(network))
    assert torch.equal(F.relu(out.pre_activations[0]), out.maps[0])
    for k in (1, 2, 3):
        identity, convolved = F.relu(out.pre_activations[k]).chunk(2, 1)
        assert torch.equal(torch.stack([identity, convolved], 2).flatten(1, 2), out.maps[k])
        assert (out.pre_activations[k] < 0).any()


def test_pre_activations_of_mobilenet_are_its_linear_maps():
    network = build_seeded("MobileNetV2").train()
    out = network(random_images(4, 16), all_outputs(network))
    assert torch.equal(F.relu(out.pre_activations[0]), out.maps[0]) and (out.pre_activations[0] < 0).any()
    assert all(torch.equal(out.pre_activations[k], out.maps[k]) and (out.maps[k] < 0).any() for k in (1, 2, 3, 4))


@pytest.mark.parametrize("training", [True, False])
def test_pre_activations_of_wrn_are_the_output_of_the_following_batch_norm(training):
    network = build_seeded("wrn16_2").train(training)
    following = [network.get_submodule(f"block{k}.layer.0.bn1") for k in (1, 2, 3)] + [network.bn1]
    outputs: dict[int, Tensor] = {}
    for k, bn in enumerate(following):
        torch.nn.init.uniform_(bn.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(k))
        bn.register_forward_hook(lambda module, args, out, k=k: outputs.setdefault(k, out.detach().clone()))
    out = network(random_images(4, 16), all_outputs(network))
    for k in range(4):
        torch.testing.assert_close(out.pre_activations[k], outputs[k])
        assert (out.pre_activations[k] < 0).any()


def test_pre_activations_of_wrn_do_not_update_batch_norm_statistics():
    x, (plain, early) = random_images(4, 16), (build_seeded("wrn16_2").train() for _ in range(2))
    initial = copy_state(plain)
    plain(x)
    early(x, Needs(pre_activations=[1]))
    for key, value in early.state_dict().items():
        expected = plain.state_dict() if key.startswith(("conv1", "block1")) else initial
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", FAMILIES)
def test_further_outputs_change_no_gradient_and_no_statistics(name):
    x, (plain, full) = random_images(4, 16), (build_seeded(name).train() for _ in range(2))
    plain(x).logits.square().mean().backward()
    full(x, all_outputs(full)).logits.square().mean().backward()
    assert has_state(full, copy_state(plain))
    for (key, p), q in zip(plain.named_parameters(), full.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad)
        assert p.grad.isfinite().all() and p.grad.abs().max() > 0, key


def test_every_parameter_of_a_bottleneck_resnet_gets_a_gradient():
    network = build_seeded("ResNet50").train()
    F.cross_entropy(network(random_images(4, 16)).logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_a_forward_pass_is_one_graph_without_breaks():
    network = build_seeded("wrn16_1").eval()
    x, needs = random_images(2, 16), Needs(logits=True, maps=[2], pre_activations=[1])
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)(x, needs)
        assert torch.equal(compiled.logits, network(x).logits)
    assert (set(compiled.maps), set(compiled.pre_activations)) == ({2}, {1})


@pytest.mark.parametrize("name", FAMILIES)
def test_pooled_features_and_logits_are_averages_of_the_last_map_and_the_class_maps(name):
    network = build_seeded(name).eval()
    with torch.no_grad():
        out = network(random_images(2, 32), Needs(logits=True, pooled=True, last_map=True, class_maps=[1, 2, 3]))
        # the classifier at every position, then the mean over each cell
        scores = network.head(out.last_map.movedim(1, 3)).movedim(3, 1)
    torch.testing.assert_close(out.last_map.mean((2, 3)), out.pooled)
    side = scores.shape[2]
    for m, class_map in out.class_maps.items():
        edges = [(i * side // m, -(-(i + 1) * side // m)) for i in range(m)]
        cells = [[scores[:, :, a:b, c:d].mean((2, 3)) for c, d in edges] for a, b in edges]
        expected = torch.stack([torch.stack(row, 2) for row in cells], 2)
        torch.testing.assert_close(class_map, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.class_maps[1][:, :, 0, 0], out.logits, atol=1e-4, rtol=1e-4)
    assert (out.last_map >= 0).all()


@pytest.mark.parametrize("name", ["resnet14", "resnet8x4", "wrn16_2", "vgg8", "ResNet50"])
def test_the_batch_norm_of_a_stage_adds_its_bias_to_the_pre_activation(name):
    network = build_seeded(name).eval()
    assert shapes(network, 32).batch_norms
    x = random_images(2, 16)
    for k in range(network.stages):
        bn = network.batch_norm(k)
        with torch.no_grad():
            bn.weight.fill_(-2.0)
            bn.bias.fill_(3.0)
            before = network(x, Needs(pre_activations=[k])).pre_activations[k]
            bn.bias.add_(5.0)
            after = network(x, Needs(pre_activations=[k])).pre_activations[k]
        torch.testing.assert_close(after - before, torch.full_like(before, 5.0), atol=1e-3, rtol=1e-4)
        bias, scale = batch_norm_parameters(network, [k])[k]
        assert bias.unique().tolist() == [8.0] and scale.unique().tolist() == [2.0] and not bias.requires_grad


@pytest.mark.parametrize("name", ["MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_networks_whose_stages_end_without_batch_norm_have_no_parameters_of_one(name):
    network = build_meta(name)
    assert not shapes(network, 32).batch_norms and not batch_norm_parameters(network, range(network.stages))
