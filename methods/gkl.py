"""GKL: Cui, Tian, Zhong, Qi, Yu, Zhang, "Decoupled Kullback-Leibler Divergence Loss", NeurIPS 2024, arXiv 2305.13948,
and its extension, Cui et al., "Generalized Kullback-Leibler Divergence Loss", arXiv 2503.08038.

    L = ce_weight · CE(z_s, y) + r · (beta · wMSE + alpha · SCE),    r = min(epoch / warmup, 1), epoch from 1

    SCE  = −mean over samples of Σ_c softmax(z_t / T)_c · log softmax(z_s / T)_c
    wMSE = ¼ · Σ_n Σ_ij p_ni p_nj ((z_t,ni − z_t,nj) − (z_s,ni − z_s,nj))² / Σ_n Σ_ij p_ni p_nj
         = ½ · Σ_n S_n Σ_c p_nc (d_nc − m_n)² / Σ_n S_n²,    d = z_t − z_s,  S_n = Σ_c p_nc,  m_n = Σ_c p_nc d_nc / S_n
    p_n  = q_n^gamma,    q_n = Q[y_n] (prior: class) or softmax(z_t,n / prior_temperature) (prior: sample)

z_s, z_t: logits [N, C]; y: labels [N]. Q [C, C]: row y is the mean of softmax(z_t / prior_temperature) over the views
of class y in the previous epoch, and uniform in the first one. The second form of wMSE is the variance of the
difference of the logits: it costs N · C in place of N · C².
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Outputs, Term
from methods.losses import cross_entropy_term, warmup_ramp
from methods.options import loss_weight, non_negative, one_of, positive


def weighted_variance(differences: Tensor, weights: Tensor) -> Tensor:
    """wMSE of the differences d and weights p of the classes of each sample: [N, C], [N, C] -> scalar."""
    sizes = weights.sum(1, keepdim=True)
    means = (weights * differences).sum(1, keepdim=True) / sizes
    variances = (sizes * weights * (differences - means).square()).sum()
    return variances / (2 * sizes.square().sum())


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """SCE: [N, C], [N, C] -> scalar."""
    p_t = F.softmax(teacher_logits / temperature, 1)
    return -(p_t * F.log_softmax(student_logits / temperature, 1)).sum(1).mean()


@dataclass
class GKLOptions:
    """Options of GKL; meanings and defaults in `conf/method/gkl.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    alpha: float = loss_weight()
    beta: float = loss_weight()
    gamma: float = non_negative()
    prior: str = one_of("class", "sample")
    prior_temperature: float = positive()
    warmup: float = non_negative()


class GKL(Method):
    """Generalized Kullback-Leibler divergence. Terms: ce, mse, sce. Reads the teacher's logits.

    Checkpoints hold the buffer prior_sums [C, C], from which Q is computed when the next epoch starts.
    """

    Options = GKLOptions
    mixing_conflict = "it averages the teacher's predictions by class, and a blended image has two"
    prior: Tensor
    prior_sums: Tensor
    classes: Tensor

    def __init__(self, options: GKLOptions, context: Context) -> None:
        super().__init__(options, context)
        c = context.classes
        self.register_buffer("classes", torch.arange(c), persistent=False)
        self.register_buffer("prior", torch.full((c, c), 1 / c), persistent=False)
        self.register_buffer("prior_sums", torch.zeros(c, c))
        self.pending_update: tuple[Tensor, Tensor] | None = None  # labels and teacher's softmax of the current step

    def on_epoch_start(self, epoch: int) -> None:
        """Set Q to the means of the previous epoch and reset the sums; a class that had no sample is uniform."""
        totals = self.prior_sums.sum(1, keepdim=True)
        means = self.prior_sums / torch.where(totals > 0, totals, 1.0)
        self.prior.copy_(torch.where(totals > 0, means, 1 / self.context.classes))
        self.prior_sums.zero_()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t = self.options, student.logits, teacher.logits
        ramp = warmup_ramp(batch.epoch, options.warmup)
        q = F.softmax(z_t / options.prior_temperature, 1)
        self.pending_update = batch.labels, q
        weights = (self.prior[batch.labels] if options.prior == "class" else q) ** options.gamma
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "mse": Term(weighted_variance(z_t - z_s, weights), ramp * options.beta),
            "sce": Term(soft_cross_entropy(z_s, z_t, options.temperature), ramp * options.alpha),
        }

    def on_step_end(self) -> None:
        """Add the teacher's softmax of the batch to the sums of its classes."""
        if self.pending_update is None:
            return
        labels, q = self.pending_update
        # a product with one-hot rows, since scattered additions on a GPU have no fixed order
        self.prior_sums += (labels[:, None] == self.classes).to(q.dtype).T @ q
        self.pending_update = None


PROVENANCE = """
Certain: the published code, and the values of the eleven pairs in its configs (`prior: sample` is its GI: False). SCE
is without the factor T².

Uncertain: the values for resnet110-resnet20 and ResNet50-vgg8, which it does not have: they are those of
resnet32x4-resnet8x4.

Source: DKL c5e8ad2 (`DKLv2/KD-dkl/mdistiller/distillers/GKL_KD.py`, `mdistiller/engine/trainer.py`,
`cifar100_config_gkl/*.yaml`).

Differences: wMSE is computed as a variance, which is equal up to rounding, where the published code builds tensors of
N × C × C entries. In a resumed run the published code starts from a uniform Q again; here a resumed run equals an
uninterrupted one.
"""
