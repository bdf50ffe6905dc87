"""FSP: Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning", CVPR 2017.

    initialization stage of `init_epochs` epochs:  L = fsp_weight · Σ_k mean((G_s,k − G_t,k)²)
    training:                                      L = ce_weight · CE(z_s, y)

    G_k = top bottomᵀ / P: [N, C_k+1, C_k], the flow from stage k to stage k + 1

z_s: logits [N, C]; y: labels [N]; bottom, top: maps after stages k and k + 1 of one network, flattened to P positions,
the larger average-pooled to the size of the smaller; k goes over all stages with the stem; mean over all entries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Initialization, Method, Needs, Outputs, Requirements, Shapes, Term, UnsupportedPair
from methods.losses import cross_entropy_term, pool_to_smaller, total
from methods.options import loss_weight, non_negative


def flow(bottom: Tensor, top: Tensor) -> Tensor:
    """FSP matrix of two maps of one network: [N, C_b, H_b, W_b], [N, C_t, H_t, W_t] -> [N, C_t, C_b]."""
    bottom, top = (maps.flatten(2) for maps in pool_to_smaller(bottom, top))
    return top @ bottom.mT / top.shape[2]


def flow_distance(student: Mapping[int, Tensor], teacher: Mapping[int, Tensor]) -> Tensor:
    """Mean squared differences of the FSP matrices, summed over neighboring stages: 2 × {stage: map} -> scalar."""
    neighbors = pairwise(sorted(student))
    return total(F.mse_loss(flow(student[a], student[b]), flow(teacher[a], teacher[b])) for a, b in neighbors)


@dataclass
class FSPOptions:
    """Options of FSP; meanings and defaults in `conf/method/fsp.yaml`."""

    ce_weight: float = loss_weight()
    fsp_weight: float = loss_weight()
    init_epochs: float = non_negative()


class FSP(Method):
    """Flow of solution procedure. Terms: fsp in the initialization stage, then ce.

    Reads both networks' maps of all stages, in the initialization stage alone.
    """

    Options = FSPOptions

    @classmethod
    def requirements(cls, options: FSPOptions, student: Shapes, teacher: Shapes) -> Requirements:
        channels_s, channels_t = ([c for c, *_ in shapes.stages] for shapes in (student, teacher))
        if channels_s != channels_t:
            raise UnsupportedPair(
                f"FSP needs equal channels in all stages: {channels_s} (student), {channels_t} (teacher)"
            )
        maps = Needs(maps=range(student.final_stage + 1))
        initialization = Initialization(math.ceil(options.init_epochs), maps, maps)
        return Requirements(Needs(logits=True), Needs(), initialization=initialization)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        if batch.epoch < 1:
            return {"fsp": Term(flow_distance(student.maps, teacher.maps), self.options.fsp_weight)}
        return {"ce": cross_entropy_term(student, batch, self.options.ce_weight)}


PROVENANCE = """
Certain: all of it, as the field runs it. The initialization stage trains the student's stages alone, without labels.
Its learning rate is that of the first epoch, and its epochs are added to those of the training. RepDistiller's command
line has `-b 50` for FSP, but that weight applies to a loss that is 0: its code trains the initialization stage by the
plain sum, and then by cross-entropy.

Source: RepDistiller (`distiller_zoo/FSP.py`, `helper/pretrain.py`, `helper/loops.py`: `--init_epochs 30`).

Unsupported: networks with unequal numbers of stages or channels, as the matrices must have one shape. The tables of the
field leave those pairs out.
"""
