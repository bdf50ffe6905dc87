"""Cross-entropy alone: the student without a teacher, the baseline of every table. Also what teachers are trained with.

L = CE(z_s, y)        z_s logits [N, C], y labels [N], mean over the batch
"""

from dataclasses import dataclass

from methods.contract import Batch, Method, Needs, Outputs, Term
from methods.losses import cross_entropy_term


@dataclass
class Options:
    """Cross-entropy alone has none."""


class CE(Method):
    """The student alone. Terms: ce."""

    Options = Options
    student_needs = Needs(logits=True)
    teacher_needs = Needs()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        return {"ce": cross_entropy_term(student, batch, 1.0)}
