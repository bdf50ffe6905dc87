"""CRD as its authors' code computes it, to compare with the fused kernels of `methods.contrast`."""

import torch
from torch import Tensor

from methods.contract import Batch
from methods.contrast import EPS
from methods.crd import CRD


class GatheringCRD(CRD):
    """CRD with negatives drawn sample by sample and K + 1 bank rows gathered per anchor.

    The same loss at many times the cost; `speed` and the tests compare with it.
    """

    def negatives(self, batch: Batch) -> Tensor:
        """Return the K negatives of each of the batch's samples: [N, K]."""
        rows = []
        for label in batch.labels.tolist():
            candidates = (self.sampler.labels != label).nonzero()[:, 0]
            if len(candidates) < self.sampler.k:
                size = (self.sampler.k,)
                picks = torch.randint(len(candidates), size, generator=batch.generator, device=candidates.device)
            else:
                picks = torch.randperm(len(candidates), generator=batch.generator, device=candidates.device)
                picks = picks[: self.sampler.k]
            rows.append(candidates[picks])
        return torch.stack(rows)

    def contrast(
        self, anchors: Tensor, bank: Tensor, positives: Tensor, negatives: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and the normalizer z; anchors [N, d], positives [N], negatives [N, K]."""
        samples = torch.cat([positives[:, None], negatives], 1)
        rows = bank[samples.flatten()].view(*samples.shape, -1)  # [N, K + 1, d]
        scores = torch.bmm(rows, anchors[:, :, None])[:, :, 0].div(self.options.temperature).exp()
        z = torch.where(z > 0, z, scores.detach().mean() * self.n_data)
        noise = (samples.shape[1] - 1) / self.n_data
        positive, negative = (scores / z).tensor_split([1], dim=1)
        log_positive = (positive / (positive + noise + EPS)).log().sum()
        return -(log_positive + (noise / (negative + noise + EPS)).log().sum()) / len(samples), z
