"""The contract between a method, the two networks and the training loop.

A method says what it needs of either network (`Needs`), is handed just that (`Outputs`) with the batch (`Batch`), and
returns named terms (`Term`), each a raw value and a weight. It owns its extra layers and memory as registered modules
and buffers. It chooses neither network, data, schedule nor evaluation.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Needs:
    """What is read of one network. Stages count from 0, the stem; stage k > 0 is the network's k-th block group.

    logits, pooled: the classifier's output [N, C]; its input, the pooled features [N, D].
    maps, preact: stages whose map [N, C_k, H_k, W_k] is read after, and before, its last activation.
    final: the map [N, D, H, W], after its activation, whose average over the positions is `pooled`.
    cams: grids m × m whose class activation maps [N, C, m, m] are read: the classifier on `final`, average-pooled to
        the grid. That of 1 × 1 would be `logits`.
    norms: stages whose last batch norm before the activation is read: its biases and scales [C_k] each.
    """

    logits: bool = False
    pooled: bool = False
    maps: frozenset[int] = frozenset()
    preact: frozenset[int] = frozenset()
    final: bool = False
    cams: frozenset[int] = frozenset()
    norms: frozenset[int] = frozenset()

    @staticmethod
    def of(
        *, logits: bool = False, pooled: bool = False, maps: Collection[int] = (), preact: Collection[int] = (),
        final: bool = False, cams: Collection[int] = (), norms: Collection[int] = (),
    ) -> "Needs":  # fmt: skip
        """`Needs` from any collections of stages and grids."""
        return Needs(
            logits, pooled, frozenset(maps), frozenset(preact), final, frozenset(cams), frozenset(norms)
        )  # fmt: skip

    @property
    def nothing(self) -> bool:
        """True where the network need not be run at all."""
        return self == Needs()

    @property
    def last_stage(self) -> int | None:
        """The deepest stage to run; None where what follows the stages is needed too."""
        if self.logits or self.pooled or self.final or self.cams:
            return None
        return max(self.maps | self.preact, default=-1)

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(Needs)))


@dataclass
class Outputs:
    """What one network gave for a batch: just the fields that were needed, the others None or absent."""

    logits: Tensor | None = None  # [N, C]
    pooled: Tensor | None = None  # [N, D]
    maps: dict[int, Tensor] = field(default_factory=dict)  # stage -> [N, C_k, H_k, W_k]
    preact: dict[int, Tensor] = field(default_factory=dict)  # likewise, before the activation
    final: Tensor | None = None  # [N, D, H, W]
    cams: dict[int, Tensor] = field(default_factory=dict)  # m -> [N, C, m, m]
    norms: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # stage -> bias [C_k], scale >= 0 [C_k]
    second: "Outputs | None" = None  # the same of the second view, where the method has one

    def only(self, needs: Needs) -> "Outputs":
        """The part of these outputs that `needs` names, in float32 (losses are computed in full precision)."""
        return Outputs(
            self.logits.float() if needs.logits else None,
            self.pooled.float() if needs.pooled else None,
            {k: _full(self.maps[k]) for k in needs.maps},
            {k: _full(self.preact[k]) for k in needs.preact},
            _full(self.final) if needs.final else None,
            {m: self.cams[m].float() for m in needs.cams},
            {k: self.norms[k] for k in needs.norms},
            self.second.only(needs) if self.second is not None else None,
        )


def _full(maps: Tensor) -> Tensor:
    """Maps in float32, whose gradient goes on in their own memory format.

    Many losses give it as NCHW whatever the maps are, and all of the network's backward pass would be slow with it.
    """
    full = maps.float()
    if full.requires_grad and full.is_contiguous(memory_format=torch.channels_last):
        full.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return full


@dataclass
class Batch:
    """One training batch, on the device."""

    images: Tensor  # [N, 3, H, W] float32, normalised
    labels: Tensor  # [N] int64
    indices: Tensor  # [N] int64, positions of the samples in the training split
    views: Tensor  # [N] int64 on the CPU, which of the augmentation's outcomes each image shows
    epoch: int  # counted from 1; the epochs of a first stage are … −2, −1, 0
    generator: torch.Generator  # the method's own stream on the device, seeded anew each epoch
    second: Tensor | None = None  # [N, 3, H, W], a second, strongly augmented view, where the method has one
    samples: Tensor | None = None  # `indices` on the CPU, where outputs of a teacher are looked up


class Term(NamedTuple):
    """One term of a loss: a scalar raw value, and the weight it enters the sum with."""

    value: Tensor
    weight: float


@dataclass(frozen=True)
class Shapes:
    """What a network's outputs look like for one image."""

    stages: tuple[tuple[int, int, int], ...]  # (C_k, H_k, W_k) of stage k
    pooled: int  # D
    final: tuple[int, int, int] = (0, 0, 0)  # (D, H, W) of the map that is pooled
    norms: bool = False  # does it tell the batch norms before its activations?


@dataclass(frozen=True)
class Context:
    """What a method may know when it is built."""

    classes: int
    student: Shapes
    teacher: Shapes
    train_labels: Tensor  # [n_train] int64, label of each training sample, on the device
    epochs: int  # length of the training


class Impossible(ValueError):
    """Raised by a method that cannot be on two networks, whatever its options: the cell is skipped with this reason."""


class Method(nn.Module):
    """Base of all methods. A subclass sets `Options`, calls `super().__init__`, and defines `losses`.

    Options: a dataclass of the method's weights and options, without defaults (these stand in its YAML); its fields
        are made by `weight`, `positive`, `count`, `choice` and `switch` below, which carry the limits that are checked.
    student_needs, teacher_needs: set by the subclass; the student's logits are always computed.
    Parameters of the module are trained by the student's optimiser; buffers are saved in checkpoints.

    On a GPU a step is recorded in each epoch and replayed for its other batches (`cuda_graph` in `conf/config.yaml`):
    `losses`, `descend` and `after_step` wait for nothing, and Python numbers of theirs change between epochs alone.

    Most methods need no more. What a few need beyond it:
    pre_epochs: whole epochs of a first stage before epoch 1, with `batch.epoch` below 1. Only what `losses` then gives
        a gradient is trained; the optimiser begins epoch 1 anew.
    second_view: the batch has a second, strongly augmented view, and both networks' outputs a `second`.
    `descend` for an optimiser step of its own, `deployed` for layers that are kept at inference.
    """

    Options: type
    published: "type[Method] | None" = None  # the method as the field's code computes it, where that is slower
    pre_epochs: int = 0
    second_view: bool = False

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__()
        self.options = options
        self.context = context
        self.student_needs = Needs(logits=True)
        self.teacher_needs = Needs(logits=True)

    def begin(self, epoch: int) -> None:
        """Called before each epoch: the place to change what is needed of the networks from one stage to the next."""

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        """The named terms of the loss for one batch; what is trained is the sum of weight × value."""
        raise NotImplementedError(f"{type(self).__name__} defines no losses(student, teacher, batch)")

    def descend(self, terms: Mapping[str, Term], optimiser: torch.optim.Optimizer) -> Tensor:
        """Take one optimiser step on the terms of a batch; returns their sum."""
        loss = total(terms)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.detach()

    def deployed(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        """What is evaluated and would be used: the student, or a module that gives `Outputs` with logits as it does."""
        return student

    def after_step(self) -> None:
        """Called without gradients after the optimiser's step: the place to update a memory."""


def check_terms(terms: Mapping[str, Term], method: str) -> None:
    """Raise TypeError for what is no loss that could be trained, with the name of the term."""
    for name, term in terms.items():
        if not isinstance(term, Term) or not isinstance(term.value, Tensor) or term.value.dim() > 0:
            given = tuple(term.value.shape) if isinstance(getattr(term, "value", None), Tensor) else type(term).__name__
            raise TypeError(f"term {name} of {method} must be a Term(<scalar tensor>, <weight>), not {given}")
    if not any(term.value.requires_grad for term in terms.values()):
        raise TypeError(f"no term of {method} has a gradient: {', '.join(terms) or 'there is none'}")


def total(terms: Mapping[str, Term]) -> Tensor:
    """The weighted sum of terms, a scalar."""
    return sum(t.weight * t.value for t in terms.values())


def weight() -> Any:
    """An option that weighs a term: a number not below 0."""
    return field(metadata={"at_least": 0.0})


def positive() -> Any:
    """An option above 0, such as a temperature."""
    return field(metadata={"above": 0.0})


def count(at_least: int) -> Any:
    """A whole-number option not below `at_least`."""
    return field(metadata={"at_least": at_least})


def switch() -> Any:
    """An option that is true or false."""
    return field()


def choice(*names: str) -> Any:
    """An option that is one of `names`."""
    return field(metadata={"choices": names})
