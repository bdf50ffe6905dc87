"""The form all networks share: a stem, block groups, pooling, a linear classifier; and what of it is read.

Layer names follow the code bases of the field (RepDistiller, mdistiller), so that their checkpoints load as they are.
Pooling is the global average, which for 32 px equals the fixed windows used there and admits other image sizes.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import UserError
from methods.contract import Needs, Outputs, Shapes

LOGITS = Needs(logits=True)
SMALLEST_IMAGE = 8  # px; below it the three poolings of VGG leave nothing


class Network(nn.Module):
    """An image classifier that hands out what is needed of it, and runs no further than that.

    A subclass sets `stages`, the number of stages with the stem, and `head`, its classifier, and defines `stage`; also
    `features` where something lies between the last stage and the pooling, `batch_norm` where it has one.
    """

    stages: int

    def stage(self, k: int, x: Tensor, pre_activation: bool) -> tuple[Tensor, Tensor | None]:
        """Stage `k`, 0 being the stem, on the map before it: the map after, and, where `pre_activation`, the map
        before its last activation (the map itself where the stage ends without one). [N, C, H, W] each."""
        raise NotImplementedError

    @property
    def head(self) -> nn.Linear:
        """The classifier: pooled features [N, D] to logits [N, C]."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """The last stage's map [N, C, H, W] to the map [N, D, H, W] that is pooled."""
        return x

    def batch_norm(self, k: int) -> nn.BatchNorm2d | None:
        """The batch norm whose output is (a summand of) stage `k`'s pre-activation; None where there is not one."""
        return None

    def forward(self, x: Tensor, needs: Needs = LOGITS) -> Outputs:
        """What `needs` names, for the images `x` [N, 3, H, W]; the other fields stay None or absent.

        Raises ValueError where `needs` names a stage that the network does not have.
        """
        unknown = [k for k in sorted({*needs.maps, *needs.pre_activations}) if not 0 <= k < self.stages]
        if unknown:
            raise ValueError(f"{type(self).__name__} has the stages 0 to {self.stages - 1}, not {unknown}")
        out = Outputs()
        last = self.stages - 1 if needs.last_stage is None else needs.last_stage
        for k in range(last + 1):
            x, before = self.stage(k, x, k in needs.pre_activations)
            if k in needs.maps:
                out.maps[k] = x
            if before is not None:
                out.pre_activations[k] = before
        if needs.last_stage is None:
            x = self.features(x)
            pooled = global_average(x)
            if needs.last_map:
                out.last_map = x
            if needs.pooled:
                out.pooled = pooled
            if needs.logits:
                out.logits = self.head(pooled)
            for m in needs.class_maps:
                cells = functional.adaptive_avg_pool2d(x, m)
                out.class_maps[m] = functional.conv2d(cells, self.head.weight[:, :, None, None], self.head.bias)
        return out


def global_average(x: Tensor) -> Tensor:
    """Mean over the positions of a map: [N, C, H, W] to [N, C]."""
    return x.mean((2, 3))


def shapes(network: Network, image_size: int) -> Shapes:
    """The shapes of the network's outputs for one image of `image_size` × `image_size` px.

    Computed on a twin without data (device "meta", evaluation mode): the network, its batch-norm statistics, its mode
    and every random generator stay as they are. Raises UserError for an image below 8 px.
    """
    if image_size < SMALLEST_IMAGE:
        raise UserError(
            f"images of {image_size} px are too small for the networks; resize them to {SMALLEST_IMAGE} px or more"
        )
    # deepcopy takes what its memo already holds, so no weight is copied
    memo: dict[int, Tensor] = {id(p): nn.Parameter(p.detach().to("meta"), False) for p in network.parameters()}
    memo |= {id(b): b.to("meta") for b in network.buffers()}
    twin = copy.deepcopy(network, memo).eval()
    everything = Needs(pooled=True, last_map=True, maps=range(network.stages))
    out = twin(torch.empty(1, 3, image_size, image_size, device="meta"), everything)
    stages = tuple(tuple(out.maps[k].shape[1:]) for k in range(network.stages))
    norms = all(network.batch_norm(k) is not None for k in range(network.stages))
    return Shapes(stages, out.pooled.shape[1], tuple(out.last_map.shape[1:]), norms)


def batch_norm_parameters(network: Network, stages: Iterable[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Return bias [C_k] and absolute scale [C_k] of the last batch norm before the activation of some stages."""
    norms = {k: network.batch_norm(k) for k in stages}
    return {k: (bn.bias.detach(), bn.weight.detach().abs()) for k, bn in norms.items() if bn is not None}
