"""NST: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv 1707.01219.

    L = ce_weight · CE(z_s, y) + nst_weight · Σ_k (K(f_t,k, f_t,k) + K(f_s,k, f_s,k) − 2 · K(f_s,k, f_t,k))

    K(a, b) = mean over samples and pairs of channels of (a_i · b_j)², each channel a vector of H · W positions, scaled
    to length 1

The bracket is the squared maximum mean discrepancy of the two networks' channels under the polynomial kernel (x · y)².
z_s: logits [N, C]; y: labels [N]; f_s,k and f_t,k: maps of student and teacher after stage k, for every stage but the
stem, the larger average-pooled to the smaller's size. Where one network has more stages, its last ones are left out.

Certain: all of it, as the field runs it; the paper reports other kernels too, and takes the last stages alone (not
verified). Source: RepDistiller (`distiller_zoo/NST.py`: `-a 0 -b 50`), mdistiller.

Speed: Σ_ij (a_i · b_j)² = ⟨AᵀA, BᵀB⟩ for the matrices A, B of the channels. Of the two sides, C × C and positions ×
positions, the smaller is computed; the published code makes C × C × positions numbers for each sample.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.at import groups, same_size
from methods.clkd import unit
from methods.contract import Batch, Context, Method, Needs, Outputs, Term, weight


def channels(maps: Tensor) -> Tensor:
    """The channels of a map as columns of length 1: [N, C, H, W] -> [N, H · W, C]; copies no map."""
    return unit(maps.flatten(2).mT)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """The mean of (a_i · b_j)² over samples and pairs of channels: [N, P, C_a], [N, P, C_b] -> scalar."""
    pairs = len(a) * a.shape[2] * b.shape[2]
    if a.shape[1] ** 2 < a.shape[2] * b.shape[2]:
        return ((a @ a.mT) * (b @ b.mT)).sum() / pairs
    return (a.mT @ b).square().sum() / pairs


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of channels: [N, C_s, H_s, W_s], [N, C_t, H_t, W_t] -> scalar."""
    s, t = (channels(maps) for maps in same_size(student, teacher))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


@dataclass
class Options:
    """Options of NST; meanings and defaults in `conf/method/nst.yaml`."""

    ce_weight: float = weight()
    nst_weight: float = weight()


class NST(Method):
    """Neuron selectivity transfer. Terms: ce, nst. Needs both networks' maps after all stages but the stem."""

    Options = Options

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self.stages = groups(context)
        self.student_needs = Needs.of(logits=True, maps=self.stages)
        self.teacher_needs = Needs.of(maps=self.stages)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        distance = sum(discrepancy(student.maps[k], teacher.maps[k]) for k in self.stages)
        return {
            "ce": Term(F.cross_entropy(student.logits, batch.labels), self.options.ce_weight),
            "nst": Term(distance, self.options.nst_weight),
        }
