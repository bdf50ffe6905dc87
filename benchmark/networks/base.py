"""The common form of all networks: a stem, block groups, pooling and a linear classifier, with outputs at each stage.

Layer names are those of the field's code bases (RepDistiller, mdistiller), so that their checkpoints load unchanged.
Pooling is the global average, which at 32 px equals the fixed windows used there and also fits other image sizes.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import UserError
from methods.contract import Needs, Outputs, Shapes

TIMM = "timm/"  # prefix of the names of timm's networks
LOGITS = Needs(logits=True)
MIN_IMAGE_SIZE = 8  # px; below, the three poolings of VGG leave nothing


class Network(nn.Module):
    """An image classifier that returns the outputs it is asked for and runs no deeper than they need.

    A subclass sets `stages`, the number of stages including the stem, and defines `stage` and `head`; also `features`
    where layers lie between the last stage and the pooling, and `batch_norm` where stages end in one.
    """

    stages: int
    missing: frozenset[str] = frozenset()  # fields of `Needs` that the network does not provide
    image_size: int | None = None  # pixels a side, where the layers depend on them

    def stage(self, k: int, x: Tensor, pre_activation: bool) -> tuple[Tensor, Tensor | None]:
        """Run stage `k`, 0 being the stem, on the previous map. Return its map and, if `pre_activation`, the map before
        its last activation (the map itself where the stage ends without one). [N, C, H, W] each."""
        raise NotImplementedError

    @property
    def head(self) -> nn.Linear:
        """The classifier: pooled features [N, D] to logits [N, C]."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Return the map [N, D, H, W] that is pooled, from the last stage's map [N, C, H, W]."""
        return x

    @property
    def foreign_module(self) -> nn.Module:
        """The module whose names of layers are those of other code bases' checkpoints."""
        return self

    def check_provided(self, needs: Needs) -> None:
        """Raise ValueError where `needs` names a stage or a kind of output that the network does not provide."""
        unknown = [k for k in sorted({*needs.maps, *needs.pre_activations}) if not 0 <= k < self.stages]
        if unknown:
            raise ValueError(f"{type(self).__name__} has the stages 0 to {self.stages - 1}, not {unknown}")
        if kinds := [kind for kind in sorted(self.missing) if getattr(needs, kind)]:
            raise ValueError(f"{type(self).__name__} does not provide {', '.join(kinds)}")

    def batch_norm(self, k: int) -> nn.BatchNorm2d | None:
        """Return the batch norm whose output is (a summand of) stage `k`'s pre-activation; None where there is none."""
        return None

    def forward(self, x: Tensor, needs: Needs = LOGITS) -> Outputs:
        """Return the outputs that `needs` names for images `x` [N, 3, H, W]; other fields stay None or empty.

        Raises ValueError where `needs` names a stage that the network does not have.
        """
        self.check_provided(needs)
        outputs = Outputs()
        last = self.stages - 1 if needs.last_stage is None else needs.last_stage
        for k in range(last + 1):
            x, before = self.stage(k, x, k in needs.pre_activations)
            if k in needs.maps:
                outputs.maps[k] = x
            if before is not None:
                outputs.pre_activations[k] = before
        if needs.last_stage is None:
            x = self.features(x)
            pooled = global_average(x)
            if needs.last_map:
                outputs.last_map = x
            if needs.pooled:
                outputs.pooled = pooled
            if needs.logits:
                outputs.logits = self.head(pooled)
            outputs.class_maps = {m: class_map(self.head, x, m) for m in needs.class_maps}
        return outputs


def global_average(x: Tensor) -> Tensor:
    """Average a map over its positions: [N, C, H, W] -> [N, C]."""
    return x.mean((2, 3))


def class_map(head: nn.Linear, x: Tensor, m: int) -> Tensor:
    """Apply a classifier to the cells of a map's m × m grid: [N, D, H, W] -> [N, C, m, m]."""
    cells = functional.adaptive_avg_pool2d(x, m)
    return functional.conv2d(cells, head.weight[:, :, None, None], head.bias)


def check_image_size(image_size: int) -> None:
    """Raise UserError for images below 8 px."""
    if image_size < MIN_IMAGE_SIZE:
        raise UserError(
            f"images of {image_size} px are too small for the networks; resize them to {MIN_IMAGE_SIZE} px or more"
        )


def shapes(network: Network, image_size: int) -> Shapes:
    """Return the shapes of a network's outputs for one image of `image_size` × `image_size` px.

    They come from a copy on the meta device in evaluation mode, so the network, its batch norm statistics, its mode and
    all random generators are unchanged. Raises UserError for images below 8 px.
    """
    check_image_size(image_size)
    # deepcopy reuses the entries of its memo, so no weight is copied
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), False) for p in network.parameters()}
    memo |= {id(b): b.to("meta") for b in network.buffers()}
    return meta_shapes(copy.deepcopy(network, memo), image_size)


def meta_shapes(meta_network: Network, image_size: int) -> Shapes:
    """Return the shapes of the outputs of a network on the meta device; it is set to evaluation mode."""
    network = meta_network.eval()
    has_pooled, has_last_map = "pooled" not in network.missing, "last_map" not in network.missing
    everything = Needs(logits=True, pooled=has_pooled, last_map=has_last_map, maps=range(network.stages))
    outputs = network(torch.empty(1, 3, image_size, image_size, device="meta"), everything)
    stages = tuple(tuple(outputs.maps[k].shape[1:]) for k in range(network.stages))
    batch_norms = bool(stages) and all(network.batch_norm(k) is not None for k in range(network.stages))
    pooled = outputs.pooled.shape[1] if has_pooled else 0
    last_map = tuple(outputs.last_map.shape[1:]) if has_last_map else (0, 0, 0)
    return Shapes(stages, pooled, last_map, batch_norms, network.missing)


def batch_norm_parameters(network: Network, stages: Iterable[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Return bias [C_k] and absolute scale [C_k] of each stage's `batch_norm`; stages without one are left out."""
    batch_norms = {k: network.batch_norm(k) for k in stages}
    return {k: (bn.bias.detach(), bn.weight.detach().abs()) for k, bn in batch_norms.items() if bn is not None}
