"""Two or more methods trained at once, as in CRD+KD: all terms of all of them in one sum.

A YAML asks for it by `implementation: crd+kd`; the options of each part then stand under the part's name. The
cross-entropy `ce` is one term, in which the parts' weights add up, where all parts have it of as many views. Other
terms of the same name have their part's name before it. A first stage is of those parts alone that have one.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

from torch import nn

from methods.contract import Batch, Context, Method, Outputs, Term


def combined(parts: Mapping[str, type[Method]]) -> type[Method]:
    """The sum of methods, each under its name. Raises TypeError where two parts each have an optimiser step or a
    deployed network of their own."""
    for hook in ("descend", "deployed"):
        owners = [n for n, kind in parts.items() if getattr(kind, hook) is not getattr(Method, hook)]
        if owners:
            raise TypeError(f"{', '.join(owners)} cannot be combined: it has a {hook} of its own")
    alike = len({kind.second_view for kind in parts.values()}) == 1
    schema = dataclasses.make_dataclass("Options", [(n, kind.Options) for n, kind in parts.items()])

    class Combination(Method):
        """The terms of all parts. Needs what any of them needs."""

        Options = schema

        def __init__(self, options: Any, context: Context) -> None:
            super().__init__(options, context)
            self.parts = nn.ModuleDict({n: kind(getattr(options, n), context) for n, kind in parts.items()})
            self.gather()
            self.pre_epochs = max(part.pre_epochs for part in self.parts.values())
            self.second_view = any(part.second_view for part in self.parts.values())

        def gather(self) -> None:
            """Take over what the parts need now."""
            self.student_needs = functools.reduce(operator.or_, (p.student_needs for p in self.parts.values()))
            self.teacher_needs = functools.reduce(operator.or_, (p.teacher_needs for p in self.parts.values()))

        def begin(self, epoch: int) -> None:
            for part in self.parts.values():
                part.begin(epoch)
            self.gather()

        def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
            found: dict[str, Term] = {}
            for part_name, part in self.parts.items():
                if batch.epoch <= -part.pre_epochs:
                    continue
                for name, term in part.losses(student, teacher, batch).items():
                    if name in found and name == "ce" and alike:
                        found[name] = Term(term.value, found[name].weight + term.weight)
                    else:
                        found[f"{part_name}_{name}" if name in found else name] = term
            return found

        def after_step(self) -> None:
            for part in self.parts.values():
                part.after_step()

    return Combination
