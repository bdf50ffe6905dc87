"""CRD as the field's published code computes it, for comparison with the fused kernels of `methods.contrast`."""

import torch
from torch import Tensor

from methods.contract import Batch
from methods.contrast import EPS
from methods.crd import CRD


class GatheringCRD(CRD):
    """CRD as the published code computes it: negatives drawn sample by sample, K + 1 bank rows gathered per anchor.

    The same loss at many times the cost; `make speed` compares with it, and tests do.
    """

    def negatives(self, batch: Batch) -> Tensor:
        """The K negatives of each of the batch's samples: [N, K]."""
        drawn = []
        for label in batch.labels.tolist():
            others = (self.sampler.labels != label).nonzero()[:, 0]
            if len(others) < self.sampler.k:
                picks = torch.randint(len(others), (self.sampler.k,), generator=batch.generator, device=others.device)
            else:
                picks = torch.randperm(len(others), generator=batch.generator, device=others.device)[: self.sampler.k]
            drawn.append(others[picks])
        return torch.stack(drawn)

    def contrast(
        self, anchors: Tensor, bank: Tensor, positives: Tensor, negatives: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        samples = torch.cat([positives[:, None], negatives], 1)
        rows = bank[samples.flatten()].view(*samples.shape, -1)  # [N, K + 1, d]
        scores = torch.bmm(rows, anchors[:, :, None])[:, :, 0].div(self.options.temperature).exp()
        z = torch.where(z > 0, z, scores.detach().mean() * self.n_data)
        noise = (samples.shape[1] - 1) / self.n_data
        own, others = (scores / z).tensor_split([1], dim=1)
        right = (own / (own + noise + EPS)).log().sum()
        return -(right + (noise / (others + noise + EPS)).log().sum()) / len(samples), z
