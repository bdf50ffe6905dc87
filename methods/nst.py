"""NST: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv 1707.01219.

    L = ce_weight · CE(z_s, y) + nst_weight · Σ_k (K(f_t,k, f_t,k) + K(f_s,k, f_s,k) − 2 · K(f_s,k, f_t,k))

    K(a, b) = mean over samples and pairs of channels of (a_i · b_j)², each channel a vector of H · W positions, scaled
    to length 1

The bracket is the squared maximum mean discrepancy of the two networks' channels under the polynomial kernel (x · y)².
z_s: logits [N, C]; y: labels [N]; f_s,k and f_t,k: maps of student and teacher after stage k, for every stage but the
stem, the larger average-pooled to the size of the smaller. Where one network has more stages, its last ones are left
out.

Σ_ij (a_i · b_j)² = ⟨AᵀA, BᵀB⟩ for the matrices A, B of the channels, so either C × C products of channels or positions
× positions are computed, whichever are fewer; the published code forms C × C × positions numbers per sample. The
products of channels are normalized by their diagonal, which is cheaper than to normalize the larger maps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import TINY, cross_entropy_term, normalize_rows, pool_to_smaller, self_product, shared_stages, total
from methods.options import loss_weight


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of channels: [N, C_s, H_s, W_s], [N, C_t, H_t, W_t] -> scalar."""
    s, t = (maps.flatten(2).mT for maps in pool_to_smaller(student, teacher))  # [N, P, C], a view of channels-last maps
    return by_positions(s, t) if s.shape[1] ** 2 < s.shape[2] * t.shape[2] else by_channels(s, t)


def by_channels(s: Tensor, t: Tensor) -> Tensor:
    """Compute the discrepancy from products of channels, C × C: [N, P, C_s], [N, P, C_t] -> scalar."""
    within_s, within_t, between = self_product(s.detach().mT @ s), t.mT @ t, t.mT @ s
    lengths_s, lengths_t = (squared_lengths(products) for products in (within_s, within_t))
    kernel_t, kernel_s = kernel(within_t, lengths_t, lengths_t), kernel(within_s, lengths_s, lengths_s)
    return kernel_t + kernel_s - 2 * kernel(between, lengths_t, lengths_s)


def squared_lengths(products: Tensor) -> Tensor:
    """Return the channels' squared lengths from their products, 1 for a zero channel: [N, C, C] -> [N, C]."""
    diagonal = products.diagonal(dim1=1, dim2=2)
    return torch.where(diagonal > TINY**2, diagonal, 1.0)


def kernel(products: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean squared cosine from products and squared lengths: [N, C_a, C_b], [N, C_a], [N, C_b] -> scalar."""
    return (products.square() / (a[:, :, None] * b[:, None, :])).mean()


def by_positions(s: Tensor, t: Tensor) -> Tensor:
    """Compute the discrepancy from products of positions, P × P: [N, P, C_s], [N, P, C_t] -> scalar."""
    s, t = normalize_rows(s), normalize_rows(t)
    products_s, products_t = self_product(s.detach() @ s.mT) / s.shape[2], t @ t.mT / t.shape[2]
    return (products_s - products_t).square().sum((1, 2)).mean()


@dataclass
class NSTOptions:
    """Options of NST; meanings and defaults in `conf/method/nst.yaml`."""

    ce_weight: float = loss_weight()
    nst_weight: float = loss_weight()


class NST(Method):
    """Neuron selectivity transfer. Terms: ce, nst. Reads both networks' maps after all stages but the stem."""

    Options = NSTOptions

    @classmethod
    def requirements(cls, options: NSTOptions, student: Shapes, teacher: Shapes) -> Requirements:
        stages = shared_stages(student, teacher)
        return Requirements(Needs(logits=True, maps=stages), Needs(maps=stages))

    def __init__(self, options: NSTOptions, context: Context) -> None:
        super().__init__(options, context)
        self.stages = shared_stages(context.student, context.teacher)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        distance = total(discrepancy(student.maps[k], teacher.maps[k]) for k in self.stages)
        return {
            "ce": cross_entropy_term(student, batch, self.options.ce_weight),
            "nst": Term(distance, self.options.nst_weight),
        }


PROVENANCE = """
Certain: all of it, as the field runs it. The paper reports other kernels too, and takes the last stages alone (not
verified).

Source: RepDistiller (`distiller_zoo/NST.py`: `-a 0 -b 50`), mdistiller.
"""
