"""FSP: Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning", CVPR 2017.

    first stage of `init_epochs` epochs:  L = fsp_weight · Σ_k mean((G_s,k − G_t,k)²)
    then:                                 L = ce_weight · CE(z_s, y)

    G_k = top bottomᵀ / P: [N, C_k+1, C_k], the flow from stage k to stage k + 1, P positions, the larger of the two
    maps of one network average-pooled to the smaller's size; all stages with the stem

z_s: logits [N, C]; y: labels [N]; mean over all entries. The first stage trains the student's stages alone; it is cut
off from labels. Its learning rate is that of the first epoch, and its epochs come on top of the others.

Certain: all of it, as the field runs it. RepDistiller's command line has `-b 50` for FSP, but that number meets a loss
that is 0: its code trains the first stage by the plain sum, and then by cross-entropy. Impossible for networks with
unequal numbers of stages or channels: the matrices must have one shape (the tables of the field leave those pairs out).
Source: RepDistiller (`distiller_zoo/FSP.py`, `helper/pretrain.py`, `helper/loops.py`: `--init_epochs 30`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from methods.at import same_size
from methods.contract import Batch, Context, Impossible, Method, Needs, Outputs, Term, weight


def flow(bottom: Tensor, top: Tensor) -> Tensor:
    """The FSP matrix of two maps of a network: [N, C_b, H_b, W_b], [N, C_t, H_t, W_t] -> [N, C_t, C_b]."""
    bottom, top = (maps.flatten(2) for maps in same_size(bottom, top))
    return top @ bottom.mT / top.shape[2]


def flow_distance(student: Mapping[int, Tensor], teacher: Mapping[int, Tensor]) -> Tensor:
    """Mean squared differences of the FSP matrices, summed over neighbouring stages: {stage: map} × 2 -> scalar."""
    steps = pairwise(sorted(student))
    return sum(F.mse_loss(flow(student[a], student[b]), flow(teacher[a], teacher[b])) for a, b in steps)


@dataclass
class Options:
    """Options of FSP; meanings and defaults in `conf/method/fsp.yaml`."""

    ce_weight: float = weight()
    fsp_weight: float = weight()
    init_epochs: float = weight()


class FSP(Method):
    """Flow of solution procedure. Terms: fsp in the first stage, then ce. Needs both networks' maps of all stages."""

    Options = Options

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        student, teacher = ([c for c, *_ in shapes.stages] for shapes in (context.student, context.teacher))
        if student != teacher:
            raise Impossible(f"FSP needs equal channels in all stages: {student} (student), {teacher} (teacher)")
        self.student_needs = Needs.of(logits=True, maps=range(len(student)))
        self.teacher_needs = Needs.of(maps=range(len(teacher)))
        self.pre_epochs = math.ceil(options.init_epochs)

    def begin(self, epoch: int) -> None:
        if epoch >= 1:  # the student learns from labels alone
            self.student_needs, self.teacher_needs = Needs(logits=True), Needs()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        if batch.epoch < 1:
            return {"fsp": Term(flow_distance(student.maps, teacher.maps), self.options.fsp_weight)}
        return {"ce": Term(F.cross_entropy(student.logits, batch.labels), self.options.ce_weight)}
