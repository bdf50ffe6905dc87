"""Cross-entropy alone: the student without a teacher, the baseline of every table. Also what teachers are trained with.

L = CE(z_s, y)        z_s logits [N, C], y labels [N], mean over the batch
"""

from dataclasses import dataclass

from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Term


@dataclass
class Options:
    """Cross-entropy alone has none."""


class CE(Method):
    """The student alone. Terms: ce."""

    Options = Options

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self.teacher_needs = Needs()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        return {"ce": Term(F.cross_entropy(student.logits, batch.labels), 1.0)}
