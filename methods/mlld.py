"""MLLD: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023.

    L = ce_weight · (CE(z_s, y) + CE(z'_s, y)) + kd_weight · L_kd + batch_weight · L_batch + class_weight · L_class

    K_T = T² · KL(P_t ‖ P_s), mean over the batch,    P = softmax(z / T) [N, C]
    B_T = ‖P_s P_sᵀ − P_t P_tᵀ‖_F² / N,    C_T = ‖P_sᵀ P_s − P_tᵀ P_t‖_F² / C

                published_code (the default)                        paper
    L_kd        u · Σ_T K_T + Σ_{T = temperature, 3, 5} K'_T        Σ_T (K_T + K'_T)
                            + Σ_{T = 2, 6} K_T
    L_batch     u · Σ_T B_T                                         Σ_T (B_T + B'_T)
    L_class     v · Σ_T C_T                                         Σ_T (C_T + C'_T)

z: logits [N, C] for the weak view, z' for the strong view, K', B', C' likewise; y: labels [N]. Σ_T is the sum over T in
(temperature, 3, 5, 2, 6). u: share of the samples on whose weak view the teacher, at T 1, is at most as confident as on
the median sample; v: share of the classes whose summed probability is at most the median; about one half each.

The form published_code made the published numbers. PROVENANCE, below the code, says where it differs from its
intention. With `standardise` it is MLKD+LS of LSKD (see `methods/kd.py`): both networks' logits are standardized in K_T
alone, and `temperature` replaces the 4, so that the default's 2 occurs twice in the sum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Outputs, Term
from methods.losses import share_up_to_median, standardize_logits
from methods.options import boolean, loss_weight, one_of, positive

FURTHER_TEMPERATURES = (3.0, 5.0, 2.0, 6.0)
STRONG_VIEW = 3  # how many of all temperatures the published code applies to the strong view


def instance_losses(student: Tensor, teacher: Tensor, temperatures: Tensor) -> Tensor:
    """Return K_T at each temperature: [N, C], [N, C], [M] -> [M]."""
    log_s, log_t = (F.log_softmax(z / temperatures[:, None, None], 2) for z in (student, teacher))
    kl = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum((1, 2)) / len(student)
    return temperatures**2 * kl


def relation_losses(student: Tensor, teacher: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    """Return B_T and C_T at each temperature: [N, C], [N, C], [M] -> [M], [M]."""
    n, c = student.shape
    p_s, p_t = (F.softmax(z / temperatures[:, None, None], 2) for z in (student, teacher))
    batch = (p_s @ p_s.mT - p_t @ p_t.mT).square().sum((1, 2)) / n
    classes = (p_s.mT @ p_s - p_t.mT @ p_t).square().sum((1, 2)) / c
    return batch, classes


@dataclass
class MLLDOptions:
    """Options of MLLD; meanings and defaults in `conf/method/mlld.yaml`."""

    form: str = one_of("published_code", "paper")
    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    batch_weight: float = loss_weight()
    class_weight: float = loss_weight()
    standardise: bool = boolean()


class MLLD(Method):
    """Multi-level logit distillation of two views. Terms: ce, kd, batch, class. Reads the teacher's logits."""

    Options = MLLDOptions
    temperatures: Tensor
    views = 2

    def __init__(self, options: MLLDOptions, context: Context) -> None:
        super().__init__(options, context)
        temperatures = torch.tensor([options.temperature, *FURTHER_TEMPERATURES])
        self.register_buffer("temperatures", temperatures, persistent=False)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, temperatures = self.options, self.temperatures
        weak, strong = (student.logits, teacher.logits), (student.view(1).logits, teacher.view(1).logits)
        ce = F.cross_entropy(weak[0], batch.class_targets) + F.cross_entropy(strong[0], batch.class_targets)
        batch_loss, class_loss = (per_temperature.sum() for per_temperature in relation_losses(*weak, temperatures))
        kd_weak, kd_strong = weak, strong
        if options.standardise:
            kd_weak = standardize_logits(weak[0]), standardize_logits(weak[1])
            kd_strong = standardize_logits(strong[0]), standardize_logits(strong[1])
        weak_kd = instance_losses(*kd_weak, temperatures)
        if options.form == "paper":
            kd = weak_kd.sum() + instance_losses(*kd_strong, temperatures).sum()
            strong_batch, strong_class = relation_losses(*strong, temperatures)
            batch_loss, class_loss = batch_loss + strong_batch.sum(), class_loss + strong_class.sum()
        else:
            p = F.softmax(teacher.logits, 1)
            u, v = share_up_to_median(p.amax(1)), share_up_to_median(p.sum(0))
            strong_kd = instance_losses(*kd_strong, temperatures[:STRONG_VIEW])
            kd = u * weak_kd.sum() + strong_kd.sum() + weak_kd[STRONG_VIEW:].sum()
            batch_loss, class_loss = u * batch_loss, v * class_loss
        return {
            "ce": Term(ce, options.ce_weight),
            "kd": Term(kd, options.kd_weight),
            "batch": Term(batch_loss, options.batch_weight),
            "class": Term(class_loss, options.class_weight),
        }


PROVENANCE = """
Certain: the published code and its weights. Where the code differs from its intention:
    it multiplies a loss that is a scalar already by the mask of the less confident samples (or the rarer classes) and
    takes the mean: it selects nothing, and scales everything by u (or v);
    in the sum over the strong view the terms of T 2 and 6 are those of the weak view;
    the relations of the strong view are computed and not added.

Uncertain: the form paper, as the paper's text was not available: it is the code without masks and without the three
differences.

Source: Multi-Level-Logit-Distillation (`mdistiller/distillers/KD_ours.py`), and logit-standardization-KD
(`mdistiller/distillers/MLKD.py`, `tools/train.py`), whose one weight scales the relations too.

Not comparable at equal cost: each step runs both networks on two views. Moreover the published numbers took 240 epochs
for like architectures and 480 or 960 for unlike ones (in LSKD 480 or 960 for all), at an initial rate of 0.025, or 0.01
for the light students; here all methods share one schedule. The strong view there is that of FixMatch's RandAugment,
here that of torchvision's (see `benchmark/data/randaugment.py`).
"""
