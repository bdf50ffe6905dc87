"""The contract between a method, the two networks and the training loop.

A method says what it needs of either network (`Needs`), is handed just that (`Outputs`) with the batch (`Batch`), and
returns named terms (`Term`), each a raw value and a weight. It owns its extra layers and memory as registered modules
and buffers. It chooses neither network, data, schedule nor evaluation.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Needs:
    """What is read of one network. Stages count from 0, the stem; stage k > 0 is the network's k-th block group.

    logits, pooled: the classifier's output [N, C]; its input, the pooled features [N, D].
    maps, preact: stages whose map [N, C_k, H_k, W_k] is read after, and before, its last activation.
    """

    logits: bool = False
    pooled: bool = False
    maps: frozenset[int] = frozenset()
    preact: frozenset[int] = frozenset()

    @staticmethod
    def of(*, logits: bool = False, pooled: bool = False, maps: Collection[int] = (), preact: Collection[int] = ()):
        """`Needs` from any collections of stage numbers."""
        return Needs(logits, pooled, frozenset(maps), frozenset(preact))

    @property
    def nothing(self) -> bool:
        """True where the network need not be run at all."""
        return not (self.logits or self.pooled or self.maps or self.preact)

    @property
    def last_stage(self) -> int | None:
        """The deepest stage to run; None where the head is needed too."""
        if self.logits or self.pooled:
            return None
        return max(self.maps | self.preact, default=-1)

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.logits or other.logits, self.pooled or other.pooled, self.maps | other.maps, self.preact | other.preact
        )


@dataclass
class Outputs:
    """What one network gave for a batch: just the fields that were needed, the others None or absent."""

    logits: Tensor | None = None  # [N, C]
    pooled: Tensor | None = None  # [N, D]
    maps: dict[int, Tensor] = field(default_factory=dict)  # stage -> [N, C_k, H_k, W_k]
    preact: dict[int, Tensor] = field(default_factory=dict)  # likewise, before the activation

    def only(self, needs: Needs) -> "Outputs":
        """The part of these outputs that `needs` names, in float32 (losses are computed in full precision)."""
        return Outputs(
            self.logits.float() if needs.logits else None,
            self.pooled.float() if needs.pooled else None,
            {k: self.maps[k].float() for k in needs.maps},
            {k: self.preact[k].float() for k in needs.preact},
        )


@dataclass
class Batch:
    """One training batch, on the device."""

    images: Tensor  # [N, 3, H, W] float32, normalised
    labels: Tensor  # [N] int64
    indices: Tensor  # [N] int64, positions of the samples in the training split
    views: Tensor  # [N] int64, which of the augmentation's outcomes each image shows
    epoch: int  # counted from 1
    generator: torch.Generator  # the method's own stream on the device, seeded anew each epoch


class Term(NamedTuple):
    """One term of a loss: a scalar raw value, and the weight it enters the sum with."""

    value: Tensor
    weight: float


@dataclass(frozen=True)
class Shapes:
    """What a network's outputs look like for one image."""

    stages: tuple[tuple[int, int, int], ...]  # (C_k, H_k, W_k) of stage k
    pooled: int  # D


@dataclass(frozen=True)
class Context:
    """What a method may know when it is built."""

    classes: int
    student: Shapes
    teacher: Shapes
    train_labels: Tensor  # [n_train] int64, label of each training sample, on the device
    epochs: int  # length of the training


class Method(nn.Module):
    """Base of all methods. A subclass sets `Options`, calls `super().__init__`, and defines `losses`.

    Options: a dataclass of the method's weights and options, without defaults (these stand in its YAML); its fields
        are made by `weight`, `positive`, `count`, `choice` and `switch` below, which carry the limits that are checked.
    student_needs, teacher_needs: set by the subclass; the student's logits are always computed.
    Parameters of the module are trained by the student's optimiser; buffers are saved in checkpoints.
    """

    Options: type
    published: "type[Method] | None" = None  # the method as the field's code computes it, where that is slower

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__()
        self.options = options
        self.context = context
        self.student_needs = Needs(logits=True)
        self.teacher_needs = Needs(logits=True)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        """The named terms of the loss for one batch; what is trained is the sum of weight × value."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called without gradients after the optimiser's step: the place to update a memory."""


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
