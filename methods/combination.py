"""Two or more methods trained together, such as CRD+KD: all terms of all of them in one sum.

A YAML requests it by `implementation: crd+kd`; the options of each part stand under the part's name. The cross-entropy
`ce` is one term with the sum of the parts' weights where all parts compute it on equally many views. Any other term
whose name occurs twice is prefixed with its part's name. An initialization stage trains only the parts that have one.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from methods.contract import Batch, Context, Initialization, Method, Needs, Outputs, Requirements, Shapes, Term


def combine(parts: Mapping[str, type[Method]]) -> type[Method]:
    """Return the sum of methods, each under its name.

    Raises TypeError for a part with its own optimizer step or inference model, which cannot be summed.
    """
    for hook in ("optimizer_step", "inference_model"):
        owners = [name for name, method in parts.items() if getattr(method, hook) is not getattr(Method, hook)]
        if owners:
            raise TypeError(f"{', '.join(owners)} cannot be combined with other methods: it overrides {hook}")
    schema = dataclasses.make_dataclass("Options", [(name, method.Options) for name, method in parts.items()])

    class Combination(Method):
        """The terms of all parts. Requires what any of them requires."""

        Options = schema
        mixing_conflict = next((m.mixing_conflict for m in parts.values() if m.mixing_conflict), "")

        def __init__(self, options: Any, context: Context) -> None:
            super().__init__(options, context)
            self.parts = nn.ModuleDict({n: method(getattr(options, n), context) for n, method in parts.items()})
            self.same_views = len({part.requires.views for _, part in self._methods()}) == 1

        def _methods(self) -> list[tuple[str, Method]]:
            return [(name, cast(Method, part)) for name, part in self.parts.items()]

        @classmethod
        def requirements(cls, options: Any, student: Shapes, teacher: Shapes) -> Requirements:
            return merge([m.requirements(getattr(options, n), student, teacher) for n, m in parts.items()])

        def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
            terms: dict[str, Term] = {}
            for part_name, part in self._methods():
                if batch.epoch <= -part.requires.init_epochs:
                    continue  # another part's initialization stage
                for name, term in part.losses(student, teacher, batch).items():
                    if name in terms and name == "ce" and self.same_views:
                        terms[name] = Term(term.value, terms[name].weight + term.weight)
                    else:
                        terms[f"{part_name}_{name}" if name in terms else name] = term
            return terms

        def on_teacher_features(self, features: Tensor, labels: Tensor) -> None:
            for _, part in self._methods():
                if part.requires.teacher_features:
                    part.on_teacher_features(features, labels)

        def on_epoch_start(self, epoch: int) -> None:
            for _, part in self._methods():
                if epoch > -part.requires.init_epochs:
                    part.on_epoch_start(epoch)

        def on_step_end(self) -> None:
            for _, part in self._methods():
                part.on_step_end()

    return Combination


def merge(requirements: Iterable[Requirements]) -> Requirements:
    """Return the union of several methods' requirements."""
    every = list(requirements)
    initialized = [r.initialization for r in every if r.initialization is not None]
    initialization = None
    if initialized:
        epochs = max(stage.epochs for stage in initialized)
        initialization = Initialization(
            epochs, _union(stage.student for stage in initialized), _union(stage.teacher for stage in initialized)
        )
    return Requirements(
        _union(r.student for r in every),
        _union(r.teacher for r in every),
        max(r.views for r in every),
        initialization,
        frozenset().union(*(r.batch_norms for r in every)),
        any(r.teacher_features for r in every),
    )


def _union(needs: Iterable[Needs]) -> Needs:
    return functools.reduce(operator.or_, needs)
