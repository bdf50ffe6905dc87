"""Cross-entropy alone: the student without a teacher, the baseline of every table. Teachers are trained with it too.

    L = CE(z_s, y)

z_s: logits [N, C]; y: labels [N]; mean over the batch.
"""

from dataclasses import dataclass

from methods.contract import Batch, Method, Needs, Outputs, Term
from methods.losses import cross_entropy_term


@dataclass
class CEOptions:
    """Cross-entropy alone has no options."""


class CE(Method):
    """The student alone. Term: ce. Reads nothing of the teacher."""

    Options = CEOptions
    student_needs = Needs(logits=True)
    teacher_needs = Needs()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        return {"ce": cross_entropy_term(student, batch, 1.0)}


PROVENANCE = """
Certain: all of it. No teacher and no published choice is involved.
"""
