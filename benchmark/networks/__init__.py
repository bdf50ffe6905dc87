"""The networks of the field under their usual names.

    resnet<6n+2>, resnet<6n+2>x4     wrn<6n+4>_<width>     vgg8, 11, 13, 16, 19
    MobileNetV2 (half width)         ShuffleV1, ShuffleV2  ResNet18, 34, 50, 101 (ImageNet form, 3×3 stem)

Upper and lower case are alike and underscores may be left out or added (wrn_40_2, mobilenetv2). `resnet50` means
ResNet50, as in the field, though 50 is also 6n+2.
"""

import functools
import re
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.errors import UserError, nearest
from benchmark.networks.base import LOGITS, Network, batch_norm_parameters, shapes
from benchmark.networks.mobilenet import MobileNetV2
from benchmark.networks.resnet import BasicBlock, Bottleneck, CifarResNet, ImageNetResNet
from benchmark.networks.shufflenet import ShuffleV1, ShuffleV2
from benchmark.networks.vgg import CONVOLUTIONS, VGG
from benchmark.networks.wrn import WideResNet
from methods.contract import Needs, Shapes

__all__ = [
    "Network", "batch_norm_parameters", "build", "canonical", "is_light", "multiplications", "names", "output_shapes",
    "shapes", "split_pair",
]  # fmt: skip

_LIGHT = ("MobileNetV2", "ShuffleV1", "ShuffleV2")
_FIXED: dict[str, Callable[[int], Network]] = {
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleV1,
    "ShuffleV2": ShuffleV2,
    "ResNet18": lambda classes: ImageNetResNet(BasicBlock, (2, 2, 2, 2), classes),
    "ResNet34": lambda classes: ImageNetResNet(BasicBlock, (3, 4, 6, 3), classes),
    "ResNet50": lambda classes: ImageNetResNet(Bottleneck, (3, 4, 6, 3), classes),
    "ResNet101": lambda classes: ImageNetResNet(Bottleneck, (3, 4, 23, 3), classes),
}
_ALIASES = {"mobilehalf": "MobileNetV2", "shufflenetv1": "ShuffleV1", "shufflenetv2": "ShuffleV2"}
_FIXED_BY_KEY = {name.lower(): name for name in _FIXED} | _ALIASES
_RESNET = re.compile(r"resnet_?([1-9]\d*)(x4)?")
_WRN = re.compile(r"wrn_?([1-9]\d*)_([1-9]\d*)")
_VGG = re.compile(r"vgg_?([1-9]\d*)")


def names() -> list[str]:
    """The usual names, to be shown to a user; other depths and widths of resnet and wrn can be built as well."""
    resnets = [f"resnet{d}" for d in (8, 14, 20, 32, 44, 56, 110)] + ["resnet8x4", "resnet32x4"]
    wrns = [f"wrn{d}_{w}" for d in (16, 40) for w in (1, 2)]
    return [*resnets, *wrns, *(f"vgg{d}" for d in CONVOLUTIONS), *_FIXED]


def canonical(name: str) -> str:
    """The one name under which a network is kept, for any accepted spelling.

    Raises UserError for an unknown network, with the nearest names or the depths that are possible.
    """
    key = name.lower()
    if fixed := _FIXED_BY_KEY.get(key.replace("_", "")):
        return fixed
    if m := _RESNET.fullmatch(key):
        return f"resnet{_depth(name, int(m[1]), 2, 'resnet', m[2] or '')}{m[2] or ''}"
    if m := _WRN.fullmatch(key):
        return f"wrn{_depth(name, int(m[1]), 4, 'wrn', f'_{m[2]}')}_{m[2]}"
    if (m := _VGG.fullmatch(key)) and int(m[1]) in CONVOLUTIONS:
        return f"vgg{m[1]}"
    raise UserError(f"unknown network '{name}'{nearest(name, names())}")


def _depth(name: str, depth: int, rest: int, before: str, after: str) -> int:
    """`depth` where it is 6n + `rest` with n > 0; a UserError with the nearest such depth otherwise."""
    if depth > rest and (depth - rest) % 6 == 0:
        return depth
    near = 6 * max(1, round((depth - rest) / 6)) + rest
    raise UserError(
        f"network '{name}': the depth must be 6n+{rest} with n of 1 or more; did you mean {before}{near}{after}?"
    )


def build(name: str, classes: int) -> Network:
    """A freshly initialised network for `classes` classes; draws from the global generator of the default device.

    Raises UserError for an unknown network.
    """
    name = canonical(name)
    if name in _FIXED:
        return _FIXED[name](classes)
    if m := _RESNET.fullmatch(name):
        return CifarResNet(int(m[1]), (32, 64, 128, 256) if m[2] else (16, 16, 32, 64), classes)
    if m := _WRN.fullmatch(name):
        return WideResNet(int(m[1]), int(m[2]), classes)
    return VGG(CONVOLUTIONS[int(name.removeprefix("vgg"))], classes)


@functools.cache
def multiplications(name: str, classes: int, image_size: int, needs: Needs = LOGITS) -> int:
    """Multiplications of one image's forward pass through a network, no deeper than `needs` ask, counted on the meta
    device."""
    with torch.device("meta"):
        network = build(name, classes).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, image_size, image_size), needs)
    return counter.get_total_flops() // 2


@functools.cache
def output_shapes(name: str, classes: int, image_size: int) -> Shapes:
    """Return the shapes of a network's outputs, from a build on the meta device."""
    with torch.device("meta"):
        return shapes(build(name, classes), image_size)


def is_light(name: str) -> bool:
    """True for the networks that the field trains with the learning rate 0.01: MobileNetV2, ShuffleV1, ShuffleV2."""
    return canonical(name) in _LIGHT


def split_pair(pair: str) -> tuple[str, str]:
    """Canonical teacher and student of `<teacher>-<student>`, as in wrn40_2-wrn16_2. Raises UserError otherwise."""
    parts = pair.split("-")
    if len(parts) != 2 or not all(parts):
        raise UserError(
            f"pair '{pair}' is not <teacher>-<student> with one hyphen, such as wrn40_2-wrn16_2 or resnet32x4-resnet8x4"
        )
    return canonical(parts[0]), canonical(parts[1])
