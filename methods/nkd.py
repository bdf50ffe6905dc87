"""NKD: Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
with Normalized Loss and Customized Soft Labels", ICCV 2023, arXiv 2303.13005.

    L = ce_weight · CE(z_s, y) + target_weight · L_target + gamma · L_nontarget

    L_target    = −mean(p_t,y · log p_s,y),                p = softmax(z), at temperature 1
    L_nontarget = −T² · mean(Σ_{c≠y} q_t,c · log q_s,c),   q = softmax of z / T over the C − 1 classes other than y

z_s, z_t: logits [N, C]; y: labels [N]. Both terms are cross-entropies, as published: they are not 0 where the student
equals the teacher. The gradient of L_nontarget is that of DKD's NCKD.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, non_target_logits
from methods.options import loss_weight, positive


def target_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Target term L_target: [N, C], [N, C], [N] -> scalar."""
    p_t = F.softmax(teacher_logits, 1).gather(1, labels[:, None])[:, 0]
    return (p_t * F.cross_entropy(student_logits, labels, reduction="none")).mean()


def nontarget_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Non-target term L_nontarget: [N, C], [N, C], [N] -> scalar."""
    student, teacher = (non_target_logits(z, labels) / temperature for z in (student_logits, teacher_logits))
    return temperature**2 * F.cross_entropy(student, F.softmax(teacher, 1))


@dataclass
class NKDOptions:
    """Options of NKD; meanings and defaults in `conf/method/nkd.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    target_weight: float = loss_weight()
    gamma: float = loss_weight()


class NKD(Method):
    """Normalized distillation. Terms: ce, target, nontarget. Reads the teacher's logits."""

    Options = NKDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, inputs = self.options, (student.logits, teacher.logits, batch.labels)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "target": Term(target_loss(*inputs), options.target_weight),
            "nontarget": Term(nontarget_loss(*inputs, options.temperature), options.gamma),
        }


PROVENANCE = """
Certain: formula, and gamma 3.5, T 3 for CIFAR-100, which its authors use for ResNet34 and ResNet18 at batch 16; for
ImageNet they take 1.5 and 1.

Uncertain: gamma and T behind the numbers that others print for the pairs of this benchmark.

Source: cls_KD (`mmcls/models/dis_losses/nkd.py`).

Differences: for some time the published file kept the target among the "non-target" classes by mistake (cls_KD issue
16, an error of an update according to its author); copies of that state are in use, for example in the code of SDD.
Here the target is left out, as in the paper and the corrected file.
"""
