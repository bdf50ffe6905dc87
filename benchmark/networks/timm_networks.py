"""Networks of timm (`timm/<name>`) behind the interface of this suite's own networks, for any number of classes and
image size.

Everything is read through timm's official interface. Stage maps are those of `forward_intermediates`, as NCHW:

    five or six maps (ResNet, RegNet, EfficientNet, …)   stage k is map k; the first one is the stem or the first group
    fewer (ConvNeXt, Swin, PiT, …)                       stage 0 is the first group, and so is stage 1: no map of the
                                                         stem is offered, and later stages must align with a ResNet's
    a row of equal blocks (ViT, DeiT, MLP-Mixer, …)      stage 0 is the first block, stages 1 to 4 the ends of four
                                                         equal parts

Pooled features are the classifier's input. The last map is provided where its spatial mean is exactly that input.
Pre-activations are provided for ResNets, for MobileNets and their like, and for networks whose blocks end in a sum
without activation (ViT, Swin, ConvNeXt), where they are the map itself.
"""

from typing import Any, NamedTuple, cast

import timm
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import (
    PretrainedCfg,
    byobnet,
    convnext,
    densenet,
    efficientnet,
    regnet,
    resnet,
    swin_transformer,
    vision_transformer,
)
from timm.models import _efficientnet_blocks as efficientnet_blocks
from torch import Tensor, nn

from benchmark.errors import UserError, message_line, nearest
from benchmark.networks.base import LOGITS, TIMM, Network, class_map
from methods.contract import Needs, Outputs

# networks whose head pools the last map by a plain mean, unless another pooling was asked for
AVERAGED = (byobnet.ByobNet, densenet.DenseNet, efficientnet.EfficientNet, regnet.RegNet, resnet.ResNet)
RESNET_STAGES = 5  # the stem and four groups
MOST_GROUPS = 6  # networks with more maps are rows of blocks, whose maps are of few sizes
ACTIVATED = (efficientnet.EfficientNet, resnet.ResNet)  # whose blocks `_end_of_group` knows
UNACTIVATED = (
    convnext.ConvNeXt,
    swin_transformer.SwinTransformer,
    vision_transformer.VisionTransformer,
)  # blocks end in a sum


def canonical(name: str) -> str:
    """Return the canonical form of `timm/<name>`. Raises UserError for a network that timm does not have."""
    bare = name[len(TIMM) :].lower()
    if not timm.is_model(bare):
        raise UserError(f"unknown network '{name}'{nearest(bare, _names_like(bare))}")
    if "." in bare and bare not in timm.list_pretrained(bare):
        raise UserError(f"timm has no weights '{bare}'{nearest(bare, timm.list_pretrained(bare.split('.')[0] + '.*'))}")
    return TIMM + bare


def _names_like(name: str) -> list[str]:
    """Return the names of timm that begin as `name` does; all of them where none does."""
    return timm.list_models(f"{name[:3]}*") or timm.list_models()


def create(name: str, classes: int, image_size: int | None, *, pretrained: bool = False) -> nn.Module:
    """Create a network of timm by its canonical name, `timm/<name>`.

    image_size: pixels a side; networks with positions of patches are made for it. None: timm's size. pretrained: load
    timm's weights, which are downloaded once. Raises UserError where the network cannot be made for that size, and
    where there are no weights for that number of classes or they cannot be downloaded.
    """
    bare = name.removeprefix(TIMM)
    settings = timm.get_pretrained_cfg(bare)
    sized = image_size is not None and settings is not None and settings.fixed_input_size
    more: dict[str, Any] = {"img_size": image_size} if sized else {}
    if pretrained:
        _check_pretrained(name, classes, settings)
    try:
        return timm.create_model(bare, pretrained, num_classes=classes, **more)
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as e:
        raise UserError(f"{name} cannot be made for images of {image_size} px: {message_line(e)}") from e
    except (OSError, RuntimeError) as e:
        if not pretrained:
            raise
        raise UserError(
            f"{name}: its pretrained weights cannot be loaded ({message_line(e)}): "
            "give their file by teacher.checkpoint"
        ) from e


def normalization(name: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of the images that the weights of a network of timm, by its
    canonical name, were trained on."""
    settings = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    assert settings is not None, f"{name} has no weights"
    return list(settings.mean), list(settings.std)


def _check_pretrained(name: str, classes: int, settings: PretrainedCfg | None) -> None:
    """Raise UserError where timm has no weights of a network, or only for another number of classes."""
    if settings is None or not settings.has_weights:
        raise UserError(f"timm has no pretrained weights of {name}: train it, or give teacher.checkpoint")
    if settings.num_classes != classes:
        raise UserError(
            f"{name} is pretrained for {settings.num_classes} classes, this data set has {classes}: "
            "train it, or give teacher.checkpoint"
        )


class ActivationTap(nn.Module):
    """An activation that keeps its input, while `keep` is set; it has no state of its own."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        if hasattr(activation, "inplace"):
            activation.inplace = False  # type: ignore[assignment]
        self.activation = activation
        self.keep = False
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.keep:
            self.kept = x
        return self.activation(x)


class StageEnd(NamedTuple):
    """How a stage ends: with an activation after a batch norm, or (both None) without activation."""

    tap: ActivationTap | None = None
    batch_norm: nn.BatchNorm2d | None = None


class TimmNetwork(Network):
    """A network of timm. name: canonical, `timm/<name>`. Raises UserError where it cannot be made as asked."""

    def __init__(self, name: str, classes: int, image_size: int | None = None, *, pretrained: bool = False) -> None:
        super().__init__()
        self.name, self.image_size = name, image_size
        self.model = create(name, classes, image_size, pretrained=pretrained)
        self._indices = _stage_indices(self.model)
        self.stages = len(self._indices)
        self._ends = _stage_ends(self.model, self._indices)
        missing = set() if self.stages else {"maps"}
        if self._ends is None:
            missing.add("pre_activations")
        if not _averages_last_map(self.model):
            missing |= {"last_map", "class_maps"}
        self.missing = frozenset(missing)

    @property
    def foreign_module(self) -> nn.Module:
        return self.model

    @property
    def head(self) -> nn.Linear:
        """The classifier. Raises TypeError where it is not one linear layer."""
        classifier = cast(Any, self.model).get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise TypeError(f"{self.name} has no linear classifier")
        return classifier

    def batch_norm(self, k: int) -> nn.BatchNorm2d | None:
        return None if self._ends is None else self._ends[k].batch_norm

    def forward(self, x: Tensor, needs: Needs = LOGITS) -> Outputs:
        """Return the outputs that `needs` names for images `x` [N, 3, H, W]; see `Network.forward`.

        Raises UserError where the network cannot run on images of this size.
        """
        self.check_provided(needs)
        outputs = Outputs()
        if needs.empty:
            return outputs
        try:
            features, maps = self._maps(x, needs)
        except (AssertionError, RuntimeError) as e:
            if x.device.type != "meta":  # shapes are asked for first, on the meta device
                raise
            raise UserError(f"{self.name} cannot run on images of {x.shape[-1]} px: {message_line(e)}") from e
        outputs.maps = {k: maps[k] for k in needs.maps}
        outputs.pre_activations = {k: self._pre_activation(k, maps) for k in needs.pre_activations}
        if needs.last_stage is None:
            self._add_head(features, needs, outputs)
        return outputs

    def _maps(self, x: Tensor, needs: Needs) -> tuple[Any, dict[int, Tensor]]:
        """Return what the head reads, None where the network stops before, and the maps of the stages needed."""
        model, stages = cast(Any, self.model), sorted({*needs.maps, *needs.pre_activations})
        taps = self._taps(needs)
        for tap in taps:
            tap.keep = True
        try:
            if not stages:
                return model.forward_features(x), {}
            indices = sorted({self._indices[k] for k in stages})
            shallow = needs.last_stage is not None
            result = model.forward_intermediates(
                x, indices=indices, output_fmt="NCHW", stop_early=shallow, intermediates_only=shallow
            )
        finally:
            for tap in taps:
                tap.keep = False
        features, maps = (None, result) if shallow else result
        return features, {k: maps[indices.index(self._indices[k])] for k in stages}

    def _taps(self, needs: Needs) -> list[ActivationTap]:
        ends = [] if self._ends is None else [self._ends[k] for k in sorted(needs.pre_activations)]
        return [end.tap for end in ends if end.tap is not None]

    def _pre_activation(self, k: int, maps: dict[int, Tensor]) -> Tensor:
        assert self._ends is not None
        tap = self._ends[k].tap
        if tap is None:
            return maps[k]
        kept, tap.kept = tap.kept, None
        assert kept is not None, f"stage {k} of {self.name} did not run its last activation"
        return kept

    def _add_head(self, features: Any, needs: Needs, outputs: Outputs) -> None:
        model = cast(Any, self.model)
        classifier = model.get_classifier()
        if needs.last_map:
            outputs.last_map = features
        outputs.class_maps = {m: class_map(classifier, features, m) for m in needs.class_maps}
        if needs.pooled:
            outputs.pooled = model.forward_head(features, pre_logits=True)
        if needs.logits:
            apply_classifier = needs.pooled and isinstance(classifier, nn.Linear)
            outputs.logits = classifier(outputs.pooled) if apply_classifier else model.forward_head(features)


def _stage_indices(model: nn.Module) -> tuple[int, ...]:
    """Return the index of each stage's map among those of `forward_intermediates`; none where timm offers no maps."""
    maps = getattr(model, "feature_info", None)
    if not hasattr(model, "forward_intermediates") or not isinstance(maps, list) or not maps:
        return ()
    n = len(maps)
    if n > MOST_GROUPS or (n >= RESNET_STAGES and len({m["reduction"] for m in maps}) == 1):
        return (0, *(round(part * n / 4) - 1 for part in range(1, 5)))
    return tuple(range(n)) if n >= RESNET_STAGES else (0, *range(n))


def _averages_last_map(model: nn.Module) -> bool:
    """Return whether the classifier is linear and its input is the plain spatial mean of the last map [N, D, H, W]."""
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    averages = isinstance(pool, SelectAdaptivePool2d) and pool.pool_type == "avg"
    return isinstance(model, AVERAGED) and averages and isinstance(cast(Any, model).get_classifier(), nn.Linear)


def _stage_ends(model: nn.Module, indices: tuple[int, ...]) -> tuple[StageEnd, ...] | None:
    """Return how each stage ends; None where that is not known. Activations at the ends are replaced by taps."""
    if isinstance(model, UNACTIVATED):
        return tuple(StageEnd() for _ in indices)
    if not indices or not isinstance(model, ACTIVATED):
        return None
    ends = []
    for index in indices:
        module = model.get_submodule(cast(Any, model).feature_info[index]["module"])
        end = _end_of_stem(model) if isinstance(module, nn.ReLU) else _end_of_group(module)
        if end is None:
            return None
        ends.append(end)
    return tuple(ends)


def _end_of_stem(model: nn.Module) -> StageEnd | None:
    batch_norm = getattr(model, "bn1", None)
    return StageEnd(_tap(model, "act1"), batch_norm) if isinstance(batch_norm, nn.BatchNorm2d) else None


def _end_of_group(group: nn.Module) -> StageEnd | None:
    """Return how the last block of a group ends; None where that is not known."""
    block: Any = group[-1] if isinstance(group, nn.Sequential) else group
    if isinstance(block, resnet.BasicBlock):
        return StageEnd(_tap(block, "act2"), _if_batch_norm(block.bn2))
    if isinstance(block, resnet.Bottleneck):
        return StageEnd(_tap(block, "act3"), _if_batch_norm(block.bn3))
    if isinstance(block, efficientnet_blocks.DepthwiseSeparableConv) and block.has_pw_act:
        return None if block.has_skip else StageEnd(_tap(block.bn2, "act"), _if_batch_norm(block.bn2))
    if isinstance(block, efficientnet_blocks.DepthwiseSeparableConv | efficientnet_blocks.InvertedResidual):
        return StageEnd()
    return None


def _tap(owner: Any, name: str) -> ActivationTap:
    """Replace an activation by a tap around it, and return the tap."""
    tap = ActivationTap(getattr(owner, name))
    setattr(owner, name, tap)
    return tap


def _if_batch_norm(layer: nn.Module) -> nn.BatchNorm2d | None:
    return layer if isinstance(layer, nn.BatchNorm2d) else None
