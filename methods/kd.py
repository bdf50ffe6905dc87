"""KD: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.

    L = ce_weight · CE(z_s, y) + kd_weight · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T))

z_s, z_t: logits [N, C] of student and teacher; y: labels [N]; KL summed over classes, mean over the batch. The factor
T² keeps the size of the gradient independent of T, so it belongs to the term's raw value.

With `standardise` it is LSKD: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024,
arXiv 2403.01427. Both networks' logits are first standardized sample by sample, (z − mean(z)) / (1e-7 + std(z)).
"""

from dataclasses import dataclass

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_divergence, standardize_logits
from methods.options import boolean, loss_weight, positive


@dataclass
class KDOptions:
    """Options of KD; meanings and defaults in `conf/method/kd.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    standardise: bool = boolean()


class KD(Method):
    """Knowledge distillation. Terms: ce, kd. Reads the teacher's logits."""

    Options = KDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t = self.options, student.logits, teacher.logits
        if options.standardise:
            z_s, z_t = standardize_logits(z_s), standardize_logits(z_t)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "kd": Term(kl_divergence(z_s, z_t, options.temperature), options.kd_weight),
        }


PROVENANCE = """
Certain: formula and weights. For ImageNet mdistiller takes T 1 and weights 0.5, 0.5. LSKD: the paper writes the
population's standard deviation; the code behind its numbers takes the unbiased one, which is used here.

Source: RepDistiller (`-r .1 -a .9`, T 4) and mdistiller (`engine/cfg.py`: CE 0.1, KD 0.9, T 4) agree for CIFAR-100.
LSKD: logit-standardization-KD f6e5aa5 (`mdistiller/distillers/KD.py`); T and weight of each pair are in the names of
its log files.

Uncertain: LSKD's weight on resnet32x4-ShuffleV2. The loss in its log (1.67 after the first epoch, 0.10 at the end) fits
a weight of about 1 and not the 9 of the file's name. The log of resnet32x4-resnet8x4 is not that of one constant run:
its loss halves at epochs 150 and 210, where the learning rate does not change.
"""
