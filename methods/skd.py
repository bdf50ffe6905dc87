"""SKD: "Streamlined Knowledge Distillation", CVPR 2026.

    L = ce_weight · CE(z_s, y) + kd_weight · (u · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)) + v · L_dir)

    L_dir = mean over samples i of √(D_i Σ⁻¹ D_iᵀ),    Σ = cov(D) + ridge · I
    D = G_s − G_t,    G = Ẑ Ẑᵀ / C,    Ẑ: the logits with rows of length 1

z_s, z_t: logits [N, C]; y: labels [N]; D_i: row i of D [N, N]; cov: the unbiased covariance [N, N] of the columns of D,
whose N rows are the observations. The gradient runs through Σ too. KL is a mean over the batch. u: share of the samples
on which the teacher, at T 1, is at most as confident as on the median sample; v: share of the classes whose summed
probability is at most the median; about one half each, without gradient.

This is what made the published numbers. u and v are meant as masks of the less confident samples and the rarer
classes, but the code multiplies them with losses that are scalars already: it selects nothing, and scales. Since the
entries of G are at most 1 / C, cov(D) is far smaller than the ridge, and L_dir is nearly the mean length of D's rows
over √ridge.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_divergence, normalize_rows, share_up_to_median
from methods.options import loss_weight, positive


def directions(logits: Tensor) -> Tensor:
    """Cosines of the logits of all pairs of samples, divided by the number of classes: [N, C] -> [N, N]."""
    unit = normalize_rows(logits)
    return unit @ unit.T / logits.shape[1]


def mahalanobis_length(rows: Tensor, ridge: float) -> Tensor:
    """Mean Mahalanobis length of rows under their own covariance plus ridge · I: [N, D] -> scalar; 0 for zero rows."""
    deviations = rows - rows.mean(0)
    covariance = deviations.T @ deviations / max(len(rows) - 1, 1)
    # without the check of `cholesky`, which would wait for the device: the ridge makes the matrix positive definite
    identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    factor, _ = torch.linalg.cholesky_ex(covariance + ridge * identity)
    whitened = torch.linalg.solve_triangular(factor, rows.T, upper=False)
    return torch.linalg.vector_norm(whitened, dim=0).mean()


@dataclass
class SKDOptions:
    """Options of SKD; meanings and defaults in `conf/method/skd.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    ridge: float = positive()


class SKD(Method):
    """Streamlined knowledge distillation. Terms: ce, kd, direction. Reads the teacher's logits."""

    Options = SKDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t = self.options, student.logits, teacher.logits
        p = F.softmax(z_t, 1)
        u, v = share_up_to_median(p.amax(1)), share_up_to_median(p.sum(0))
        direction = mahalanobis_length(directions(z_s) - directions(z_t), options.ridge)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "kd": Term(u * kl_divergence(z_s, z_t, options.temperature), options.kd_weight),
            "direction": Term(v * direction, options.kd_weight),
        }


PROVENANCE = """
Certain: the published code, with the two masks that only scale; weights 0.1 and 0.9, T 4, ridge 0.1.

Uncertain: 0.5 and 0.5 for resnet32x4-resnet8x4, which a remark in the repository gives. The README's numbers are of
teachers and students trained by another recipe, on a set of weakly and RandAugment-augmented views together (100,000
images an epoch, rate 0.1): its gains are not those of the loss alone, and none of its numbers belongs to this recipe.

Source: StreamLined 7458628 (`Distiller/SKD.py`, README). torchdistill has another reading, without T² and the masks,
with weights 1 and 1.

Differences: the medians are computed on the device, where the published code copies to the CPU in each step. Where
student and teacher agree in all directions the gradient of the square root is 0, where the published code has none.
"""
