"""MLLD: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023.

    L = ce_weight · (CE(z_s, y) + CE(z'_s, y)) + kd_weight · L_kd + batch_weight · L_batch + class_weight · L_class

with z the logits [N, C] of an image as in every method, z' those of its second, strongly augmented view, y the labels
[N], and of logits at temperature T, P = softmax(z / T) [N, C]:

    K_T = T² · KL(P_t ‖ P_s), mean over the batch
    B_T = ‖P_s P_sᵀ − P_t P_tᵀ‖_F² / N,    C_T = ‖P_sᵀ P_s − P_tᵀ P_t‖_F² / C

                published_code (the default)                        paper
    L_kd        u · Σ_T K_T + Σ_{T = temperature, 3, 5} K'_T        Σ_T (K_T + K'_T)
                            + Σ_{T = 2, 6} K_T
    L_batch     u · Σ_T B_T                                         Σ_T (B_T + B'_T)
    L_class     v · Σ_T C_T                                         Σ_T (C_T + C'_T)

The other sums are over T in (temperature, 3, 5, 2, 6). u is the share of the samples of which the teacher, at T 1 on
the first view, is at most as confident as on the batch's median sample; v the share of the classes whose summed
probability is at most the median class's: about a half each.

The default is what made the published numbers. Where the code differs from what is meant:
    it multiplies a loss that is a scalar already by the mask of the less confident samples (or the rarer classes) and
    takes the mean: nothing is selected, all is scaled by u (or v);
    in the sum over the second view the terms of T 2 and 6 are those of the first view;
    the relations of the second view are computed and not added.
With `standardise` it is MLKD+LS of LSKD (see `methods/kd.py`): both networks' logits are standardised in K_T alone, and
`temperature` replaces the 4, so that the default's 2 stands twice in the sum.

Certain: the published code and its weights. Source: Multi-Level-Logit-Distillation
(`mdistiller/distillers/KD_ours.py`), and logit-standardization-KD (`mdistiller/distillers/MLKD.py`, `tools/train.py`),
whose one weight scales the relations too. Uncertain: the form paper, as the paper's text was not at hand: it is the
code without masks and without the three differences. Not comparable at equal cost: each step runs both networks on two
views. The published numbers moreover took 240 epochs for like architectures and 480 or 960 for unlike ones (in LSKD 480
or 960 for all), at an initial rate of 0.025, or 0.01 for the light students; here all methods share one schedule. The
second view there is of FixMatch's RandAugment, here of torchvision's (see `benchmark/data/randaugment.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Outputs, Term
from methods.losses import standardize_logits
from methods.options import boolean, loss_weight, one_of, positive

OTHERS = (3.0, 5.0, 2.0, 6.0)  # the temperatures beside the first
SECOND = 3  # how many of all the published code applies to the second view


def instance(student: Tensor, teacher: Tensor, temperatures: Tensor) -> Tensor:
    """K_T at each temperature: [N, C], [N, C], [M] -> [M]."""
    log_s, log_t = (F.log_softmax(z / temperatures[:, None, None], 2) for z in (student, teacher))
    kl = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum((1, 2)) / len(student)
    return temperatures**2 * kl


def relations(student: Tensor, teacher: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    """B_T and C_T at each temperature: [N, C], [N, C], [M] -> [M], [M]."""
    n, c = student.shape
    p_s, p_t = (F.softmax(z / temperatures[:, None, None], 2) for z in (student, teacher))
    batch = (p_s @ p_s.mT - p_t @ p_t.mT).square().sum((1, 2)) / n
    classes = (p_s.mT @ p_s - p_t.mT @ p_t).square().sum((1, 2)) / c
    return batch, classes


def share_up_to_median(values: Tensor) -> Tensor:
    """Which share of values is at most their median: [M] -> scalar."""
    ranked, last = values.sort().values, len(values) - 1
    median = (ranked[last // 2] + ranked[(last + 1) // 2]) / 2
    return (values <= median).to(values.dtype).mean()


@dataclass
class Options:
    """Options of MLLD; meanings and defaults in `conf/method/mlld.yaml`."""

    form: str = one_of("published_code", "paper")
    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    batch_weight: float = loss_weight()
    class_weight: float = loss_weight()
    standardise: bool = boolean()


class MLLD(Method):
    """Multi-level logit distillation of two views. Terms: ce, kd, batch, class. Needs the teacher's logits."""

    Options = Options
    views = 2

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self.register_buffer("temperatures", torch.tensor([options.temperature, *OTHERS]), persistent=False)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        o, t = self.options, self.temperatures
        weak, strong = (student.logits, teacher.logits), (student.view(1).logits, teacher.view(1).logits)
        ce = F.cross_entropy(weak[0], batch.labels) + F.cross_entropy(strong[0], batch.labels)
        b, c = (found.sum() for found in relations(*weak, t))
        weak_kl, strong_kl = (map(standardize_logits, z) if o.standardise else z for z in (weak, strong))
        k = instance(*weak_kl, t)
        if o.form == "paper":
            kd = k.sum() + instance(*strong_kl, t).sum()
            b, c = (first + second.sum() for first, second in zip((b, c), relations(*strong, t), strict=True))
        else:
            p = F.softmax(teacher.logits, 1)
            u, v = share_up_to_median(p.amax(1)), share_up_to_median(p.sum(0))
            kd = u * k.sum() + instance(*strong_kl, t[:SECOND]).sum() + k[SECOND:].sum()
            b, c = u * b, v * c
        return {
            "ce": Term(ce, o.ce_weight),
            "kd": Term(kd, o.kd_weight),
            "batch": Term(b, o.batch_weight),
            "class": Term(c, o.class_weight),
        }
