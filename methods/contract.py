"""The contract between a distillation method, the two networks and the training loop.

A method says what it needs of each network (`Needs`), receives exactly that (`Outputs`) with the batch (`Batch`), and
returns named terms (`Term`): a raw value and a weight each. It owns its extra layers and memory as registered modules
and buffers. It never chooses networks, data, schedule or evaluation.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Needs:
    """The outputs that are read of one network. Stages count from 0, the stem; stage k > 0 is the k-th block group.

    logits, pooled: the classifier's output [N, C], and its input, the pooled features [N, D].
    maps, pre_activations: stages whose map [N, C_k, H_k, W_k] is read after, and before, its last activation.
    last_map: the map [N, D, H, W], after its activation, whose spatial mean is `pooled`.
    class_maps: grid sizes m of the class activation maps [N, C, m, m]: the classifier applied to `last_map` after
        average pooling to m × m positions. For m = 1 they would equal the logits.

    Any collection of stages or sizes may be given; it is kept as a frozenset.
    """

    logits: bool = False
    pooled: bool = False
    maps: Collection[int] = frozenset()
    pre_activations: Collection[int] = frozenset()
    last_map: bool = False
    class_maps: Collection[int] = frozenset()

    def __post_init__(self) -> None:
        for name in ("maps", "pre_activations", "class_maps"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))

    @property
    def empty(self) -> bool:
        """True where the network need not run at all."""
        return self == Needs()

    @property
    def last_stage(self) -> int | None:
        """The deepest stage to run; None where the network must run to its pooling or classifier."""
        if self.logits or self.pooled or self.last_map or self.class_maps:
            return None
        return max({*self.maps, *self.pre_activations}, default=-1)

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(Needs)))


KINDS = {  # fields of `Needs` that some networks do not provide, as messages call them
    "pooled": "pooled features",
    "maps": "stage maps",
    "pre_activations": "pre-activations",
    "last_map": "map before the average pooling",
    "class_maps": "class activation maps",
}

NOT_READ = cast(Tensor, None)  # typed as a tensor: a method reads nothing but what it requires


@dataclass
class Outputs:
    """Outputs of one network for a batch. Fields that were not needed are None or empty.

    An instance holds the outputs for the weakly augmented view, and in `further_views` those for the others.
    """

    logits: Tensor = NOT_READ  # [N, C]
    pooled: Tensor = NOT_READ  # [N, D]
    maps: dict[int, Tensor] = field(default_factory=dict)  # stage -> [N, C_k, H_k, W_k]
    pre_activations: dict[int, Tensor] = field(default_factory=dict)  # stage -> [N, C_k, H_k, W_k]
    last_map: Tensor = NOT_READ  # [N, D, H, W]
    class_maps: dict[int, Tensor] = field(default_factory=dict)  # m -> [N, C, m, m]
    further_views: "list[Outputs]" = field(default_factory=list)

    def view(self, index: int) -> "Outputs":
        """Return the outputs for one view: 0 is the weak view, 1 the strong one."""
        return self if index == 0 else self.further_views[index - 1]

    def select(self, needs: Needs) -> "Outputs":
        """Return the outputs that `needs` names, in float32: losses are computed in full precision."""
        selected: dict[str, Any] = {}
        for f in fields(Needs):
            need, value = getattr(needs, f.name), getattr(self, f.name)
            if isinstance(need, frozenset):
                selected[f.name] = {k: _to_float32(value[k], f.name) for k in need}
            elif need:
                selected[f.name] = _to_float32(value, f.name)
        return Outputs(**selected, further_views=[view.select(needs) for view in self.further_views])


# kinds whose gradient runs through the convolutions of the network
CONVOLUTIONAL = ("maps", "pre_activations", "last_map")


def _to_float32(value: Tensor, kind: str) -> Tensor:
    """Cast to float32; the gradient of a channels-last map is returned to the network in that memory format.

    Many losses produce an NCHW gradient whatever the map's format, which would slow down the whole backward pass.
    """
    full = value.float()
    channels_last = torch.channels_last
    if kind in CONVOLUTIONAL and full.requires_grad and full.is_contiguous(memory_format=channels_last):
        full.register_hook(lambda gradient: gradient.contiguous(memory_format=channels_last))
    return full


@dataclass
class Batch:
    """One training batch. Lists have one entry per view: 0 is the weak view, 1 the strong one.

    images: [N, 3, H, W] float32, normalized, on the device.
    labels, indices: [N] int64 on the device; indices are positions of the samples in the training split.
    epoch: counted from 1; the epochs of an initialization stage are …, −2, −1, 0.
    generator: the method's own random stream on the device, reseeded every epoch.
    indices_cpu, augmentation_ids: [N] int64 on the CPU, by which a cache of teacher outputs is read; the id says which
        outcome of the augmentation an image shows. None for a view that cannot be looked up.
    targets: [N, C] float32 on the device, the probabilities of the classes where the recipe smooths labels or blends
        images (mixup, CutMix); else None. `labels` then has the label of the image with the larger share.
    """

    images: list[Tensor]
    labels: Tensor
    indices: Tensor
    epoch: int
    generator: torch.Generator
    indices_cpu: Tensor | None = None
    augmentation_ids: list[Tensor | None] = field(default_factory=list)
    targets: Tensor | None = None

    @property
    def class_targets(self) -> Tensor:
        """What a cross-entropy compares the student with: `targets` [N, C], or `labels` [N] where there are none."""
        return self.labels if self.targets is None else self.targets


class Term(NamedTuple):
    """One term of a loss: a raw scalar, and the weight of it in the sum."""

    value: Tensor
    weight: float


@dataclass(frozen=True)
class Shapes:
    """Shapes of a network's outputs for one image."""

    stages: tuple[tuple[int, int, int], ...]  # (C_k, H_k, W_k) of stage k
    pooled: int  # D; 0 where it is missing
    last_map: tuple[int, int, int] = (0, 0, 0)  # (D, H, W)
    batch_norms: bool = False  # True where every stage ends in batch norm and activation
    missing: frozenset[str] = frozenset()  # fields of `Needs` that the network does not provide

    @property
    def final_stage(self) -> int:
        """Number of the last stage. Raises UnsupportedPair where the network provides no stage maps."""
        if not self.stages:
            raise UnsupportedPair("it reads stage maps, which one of the networks does not provide")
        return len(self.stages) - 1

    @property
    def final_map(self) -> tuple[int, int, int]:
        """(C, H, W) of the last stage. Raises UnsupportedPair where the network provides no stage maps."""
        return self.stages[self.final_stage]

    def check_provided(self, needs: Needs, role: str) -> None:
        """Raise UnsupportedPair where a network of these shapes does not provide what `needs` names.

        role: student or teacher, for the message.
        """
        for kind, description in KINDS.items():
            if kind in self.missing and getattr(needs, kind):
                raise UnsupportedPair(f"it reads the {role}'s {description}, which this network does not provide")
        deepest = max({*needs.maps, *needs.pre_activations}, default=-1)
        if deepest >= len(self.stages):
            stages = f"the stages 0 to {len(self.stages) - 1}" if self.stages else "no stages"
            raise UnsupportedPair(f"it reads stage {deepest} of the {role}, which has {stages}")


@dataclass(frozen=True)
class Context:
    """What a method may know when it is built.

    classes: number of classes. student, teacher: shapes of the networks' outputs. epochs: length of the training.
    train_labels: [n_train] int64, the label of each training sample, on the device.
    teacher_batch_norms: stage -> bias [C_k] and absolute scale [C_k], the parameters of the teacher's last batch norm
        before the activation of the stages that `Requirements.batch_norms` names; read once, as the teacher is frozen.
    """

    classes: int
    student: Shapes
    teacher: Shapes
    train_labels: Tensor
    epochs: int
    teacher_batch_norms: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class UnsupportedPair(ValueError):
    """Raised when a method does not support this teacher-student pair under any options; the run is skipped and the
    message recorded."""


@dataclass(frozen=True)
class Initialization:
    """An initialization stage: whole epochs before epoch 1, and what is read of the networks in them.

    Only parameters that receive a gradient in it are trained; the optimizer's momentum is reset before epoch 1.
    """

    epochs: int
    student: Needs
    teacher: Needs


@dataclass(frozen=True)
class Requirements:
    """What a method requires on a pair of networks.

    student, teacher: outputs read of each network from epoch 1 on; the student's logits are always computed.
    views: augmented views of each image, 1 (weak) or 2 (weak and strong).
    initialization: the stage before epoch 1, or None.
    batch_norms: stages of the teacher whose batch norm parameters the method reads when it is built.
    teacher_features: True where the method reads the teacher's pooled features of all training images before training
        (`Method.on_teacher_features`).
    """

    student: Needs = Needs(logits=True)
    teacher: Needs = Needs(logits=True)
    views: int = 1
    initialization: Initialization | None = None
    batch_norms: frozenset[int] = frozenset()
    teacher_features: bool = False

    @property
    def init_epochs(self) -> int:
        """Number of epochs of the initialization stage."""
        return 0 if self.initialization is None else self.initialization.epochs

    def needs(self, epoch: int) -> tuple[Needs, Needs]:
        """Return what is read of student and teacher in an epoch."""
        stage = self if self.initialization is None or epoch >= 1 else self.initialization
        return stage.student, stage.teacher

    def check_provided(self, student: Shapes, teacher: Shapes) -> None:
        """Raise UnsupportedPair where networks of these shapes do not provide what is read of them."""
        for epoch in (0, 1):
            needs_of_student, needs_of_teacher = self.needs(epoch)
            student.check_provided(needs_of_student, "student")
            teacher.check_provided(needs_of_teacher, "teacher")
        if self.teacher_features:
            teacher.check_provided(Needs(pooled=True), "teacher")


class Method(nn.Module):
    """Base of all methods. A subclass sets `Options` and defines `losses`.

    Options: a dataclass of the method's weights and options without defaults, which stand in its YAML; its fields are
        made by the functions of `methods.options`.
    student_needs, teacher_needs, views: what the method requires, where that depends on neither options nor networks;
        otherwise the subclass overrides `requirements`.
    mixing_conflict: why the method has no meaning for blended images (mixup, CutMix); empty where it has one.
    requires: the requirements of this instance.

    Parameters of the module are trained by the student's optimizer; buffers are saved in checkpoints. Checkpoints are
    written after whole epochs: what later epochs read of earlier ones must be in a buffer.

    On a GPU a training step is captured as a CUDA graph once per epoch and replayed. `losses`, `optimizer_step` and
    `on_step_end` must not wait for the device (`.item()`, boolean masks), and Python numbers that they compute may
    change between epochs only.
    """

    Options: type
    student_needs: ClassVar[Needs] = Needs(logits=True)
    teacher_needs: ClassVar[Needs] = Needs(logits=True)
    views: ClassVar[int] = 1
    mixing_conflict: ClassVar[str] = ""

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__()
        self.options = options
        self.context = context
        self.requires = self.requirements(options, context.student, context.teacher)

    @classmethod
    def requirements(cls, options: Any, student: Shapes, teacher: Shapes) -> Requirements:
        """Return what the method requires on networks of these shapes, without building anything.

        Raises UnsupportedPair where no options support the pair, ValueError where these options do not.
        """
        return Requirements(cls.student_needs, cls.teacher_needs, cls.views)

    @classmethod
    def check_momentum(cls, options: Any, momentum: float) -> None:
        """Raise ValueError where these options do not suit the optimizer's momentum. By default all do."""

    def on_teacher_features(self, features: Tensor, labels: Tensor) -> None:
        """Hook before training, called without gradients where `Requirements.teacher_features` is set.

        features: [M, D], the teacher's pooled features of unaugmented training images, in float32, and labels: [M], on
        the device of the method. It is not called when a run is resumed: what is made of the features must be kept in
        buffers. A buffer holds NaN before, so that a method that never received them cannot train.
        """

    def on_epoch_start(self, epoch: int) -> None:
        """Hook before the first batch of each epoch, called without gradients; epochs count as in `Batch`."""

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the named terms of the loss for one batch; the sum of weight × value is minimized."""
        raise NotImplementedError(f"{type(self).__name__} defines no losses(student, teacher, batch)")

    def optimizer_step(self, terms: Mapping[str, Term], optimizer: torch.optim.Optimizer) -> Tensor:
        """Take one optimizer step on the terms of a batch; return their weighted sum, a scalar without gradient.

        Where several processes train, `backward` leaves the gradients of the whole batch, as it does in one process;
        `torch.autograd.grad` does not.
        """
        loss = weighted_sum(terms)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def on_step_end(self) -> None:
        """Hook after the optimizer step, called without gradients: the place to update a memory."""

    def inference_model(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        """Return the model that is evaluated and deployed: the student, or a module whose `Outputs` have logits."""
        return student


def check_terms(terms: Mapping[str, Term], method: str) -> None:
    """Raise TypeError, naming the term, where the terms do not form a loss that can be trained."""
    for name, term in terms.items():
        if not isinstance(term, Term) or not isinstance(term.value, Tensor) or term.value.dim() > 0:
            value = getattr(term, "value", None)
            actual = tuple(value.shape) if isinstance(value, Tensor) else type(term).__name__
            raise TypeError(f"term {name} of {method} must be a Term(<scalar tensor>, <weight>), not {actual}")
    if not any(term.value.requires_grad for term in terms.values()):
        raise TypeError(f"no term of {method} has a gradient: {', '.join(terms) or 'it returned no terms'}")


def weighted_sum(terms: Mapping[str, Term]) -> Tensor:
    """Return the weighted sum of terms, a scalar."""
    return cast(Tensor, sum(t.weight * t.value for t in terms.values()))
