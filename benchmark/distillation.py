"""Distillation from Python: a given student learns from a given teacher, by any method of this suite, on given data.

    from benchmark.distillation import distill

    record = distill(student, teacher, (x_train, y_train), (x_test, y_test), method="dkd", epochs=20)
    print(record.top1_last, record.teacher_top1)

The run is one of the run store: the same call again returns the finished run, an interrupted one resumes, and `table`
shows it beside others.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmark import networks
from benchmark.config.compose import load_config
from benchmark.config.schema import DatasetConfig
from benchmark.data import datasets
from benchmark.data.datasets import Dataset, Split
from benchmark.errors import UserError
from benchmark.grid.plan import Plan, make_plan
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import TrainingRun
from benchmark.networks.custom import CustomNetwork, from_module
from benchmark.runs.record import RunRecord, RunStatus
from benchmark.runs.tracking import Tracking
from benchmark.runs.weights import load_weights
from benchmark.teacher import importing

STUDENT, TEACHER = "student", "teacher"  # names of the networks where none are given
UNIT_STD = 1 / 255  # with mean 0: floats are used as they are
Examples = tuple[Tensor, Tensor] | Iterable[Any]


def distill(
    student: nn.Module, teacher: nn.Module | None, train: Examples, test: Examples, *, method: str = "kd",
    epochs: int = 20, seed: int = 0, name: str = "custom", stages: Sequence[str] = (),
    teacher_stages: Sequence[str] = (), classifier: str | None = None, teacher_classifier: str | None = None,
    names: tuple[str, str] = (TEACHER, STUDENT), overrides: Sequence[str] = (),
) -> RunRecord:  # fmt: skip
    """Train `student` with the outputs of `teacher`; return the record of the run. The student is trained in place.

    student, teacher: modules from images [N, 3, H, W] to logits [N, C]. The teacher is used as it is; None for a method
        that reads nothing of one, such as "ce", which trains a network alone.
    train, test: images [N, 3, H, H] and labels [N] as tensors; or a `Dataset` or `DataLoader`, which is read once, so
        that its random transforms are drawn once: crops and flips are those of `dataset.padding` and `dataset.flip`.
        Images are uint8, normalized by the statistics of the training images, or floats, which are used as they are.
    method: a name of conf/method. name: of the data, for folders and tables. names: of teacher and student, likewise.
    stages, teacher_stages: paths of the modules whose outputs [N, C, H, W] are the stage maps, the first the stem.
    classifier, teacher_classifier: paths of the linear layers whose inputs are the pooled features.
    overrides: further words of the command line, such as "recipe.lr=0.01", "kd.temperature=2", "runs=my-runs".

    Raises UserError for data or options that cannot work, for a method that does not support the networks, and for a
    run that did not finish.
    """
    dataset = _dataset(train, test, name)
    if teacher is None:
        names = (names[1], names[1])
    else:
        _add(names[0], from_module(teacher, tuple(teacher_stages), teacher_classifier))
    _add(names[1], from_module(student, tuple(stages), classifier))
    words = [
        f"pair={'-'.join(names)}", f"methods={method}", f"seeds={seed}", "profile=short", "dataset=npz",
        f"dataset.name={name}", f"dataset.size={dataset.config.size}", f"recipe.epochs={epochs}", "tracker.mode=off",
        "precision=fp32", *overrides,
    ]  # fmt: skip
    config = load_config(words)
    if config.precision == "auto":
        raise UserError("precision=auto is for commands, which time other batches: give precision=fp32 or bf16")
    if config.distributed:
        raise UserError(
            "distributed=true is for commands: networks given as objects cannot be built in other processes"
        )
    dataset = _with_options(dataset, config.dataset)
    plan = make_plan(config, words, dataset)
    run = _planned_run(plan, method, *names)
    outcome = execute(run, Tracking(config.tracker, plan.settings.runs), Progress(1), dataset=dataset)
    if outcome.status != RunStatus.DONE:
        raise UserError(str(outcome))
    weights = load_weights(run.folder.weights)
    student.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    return run.folder.record


def _planned_run(plan: Plan, method: str, teacher: str, student: str) -> TrainingRun:
    """Import the teacher where the method reads one, and return the student's run.

    Raises UserError for a method that does not support the networks or the images, and for an unusable teacher.
    """
    if reason := next(iter(plan.unsupported.values()), None):
        raise UserError(f"{method}: {reason}")
    (key,) = plan.methods
    if plan.requirements(key).views > 1 and plan.dataset.images_in_memory.images.dtype != torch.uint8:
        raise UserError(f"{method} reads strongly augmented views, which need uint8 images")
    if plan.needs_no_teacher(key):
        (run,) = plan.students_alone()
        return run
    if teacher == student:
        raise UserError(f"{method} needs a teacher: give a network, not None")
    network = networks.build(teacher, plan.dataset.classes, plan.dataset.config.size)
    training = plan.teachers[teacher]
    plan.teachers[teacher] = importing.import_network(network, "the module given", teacher, training, plan.dataset)
    if reason := plan.rejection_reason(teacher):
        raise UserError(reason)
    (run,) = plan.students(teacher)
    return run


def _add(name: str, network: CustomNetwork) -> None:
    if "-" in name:
        raise UserError(f"{name!r} cannot name a network: use letters, digits, _ and .")
    networks.add_custom(name, network)


def _dataset(train: Examples, test: Examples, name: str) -> Dataset:
    """Return the data as a data set whose options are still those of the data alone."""
    (x_train, y_train), (x_test, y_test) = _tensors(train, "train"), _tensors(test, "test")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise UserError(f"train has images {tuple(x_train.shape[1:])}, test {tuple(x_test.shape[1:])}")
    classes = int(y_train.max()) + 1
    if int(y_test.max()) >= classes or min(int(y_train.min()), int(y_test.min())) < 0:
        raise UserError(f"labels must be 0 to {classes - 1}, as in train")
    splits = {"train": _split(x_train, y_train), "test": _split(x_test, y_test)}
    config = DatasetConfig(
        name=name, source="npz", size=x_train.shape[3], padding=4, flip=True, mean=None, std=None, train_size=None,
        test_size=None, validation=0.0, split_seed=0, file=None, root=None,
    )  # fmt: skip
    names = tuple(map(str, range(classes)))
    return Dataset(name, splits["train"], splits["test"], None, names, datasets.fingerprint(splits), config)


def _with_options(dataset: Dataset, config: DatasetConfig) -> Dataset:
    """Return the data set with the options of a command, mean and std resolved."""
    for key in ("train_size", "test_size", "file", "root"):
        if getattr(config, key) is not None:
            raise UserError(f"dataset.{key} is for data in files: choose the images that you give")
    if config.validation:
        raise UserError("dataset.validation is for data in files: give the validation images as test")
    if config.size != dataset.config.size:
        raise UserError(f"dataset.size is {config.size}, but the images are {dataset.config.size} pixels wide")
    if dataset.images_in_memory.images.dtype != torch.uint8:
        config.mean, config.std = [0.0] * 3, [UNIT_STD] * 3
    else:
        config = datasets.resolve_statistics(config, dataset.images_in_memory.images)
    return Dataset(dataset.name, dataset.train, dataset.test, None, dataset.class_names, dataset.fingerprint, config)


def _split(images: Tensor, labels: Tensor) -> Split:
    return Split(images.contiguous(memory_format=torch.channels_last), labels)


def _tensors(examples: Examples, role: str) -> tuple[Tensor, Tensor]:
    """Return images [N, 3, H, H] and labels [N] on the CPU. Raises UserError for another form."""
    if isinstance(examples, tuple) and len(examples) == 2 and all(isinstance(part, Tensor) for part in examples):
        images, labels = examples
    else:
        batched = isinstance(examples, DataLoader)
        parts = [_pair(example, role) for example in examples] if batched else _examples_of(examples, role)
        if not parts:
            raise UserError(f"{role} holds no images")
        join = torch.cat if batched else torch.stack
        images, labels = join([image for image, _ in parts]), join([torch.as_tensor(label) for _, label in parts])
    images, labels = images.detach().cpu(), labels.detach().cpu().long()
    if (
        len(images) == 0
        or images.dim() != 4
        or images.shape[1] != 3
        or images.shape[2] != images.shape[3]
        or len(images) != len(labels)
    ):
        raise UserError(
            f"{role} has images {tuple(images.shape)} and {len(labels)} labels: expected [N, 3, H, H] and [N]; "
            "repeat the channel of gray images, images.expand(-1, 3, -1, -1)"
        )
    return (images if images.dtype == torch.uint8 else images.float()), labels


def _examples_of(examples: Any, role: str) -> list[tuple[Tensor, Any]]:
    """Return the pairs of a `Dataset` with a length."""
    if not hasattr(examples, "__len__") or not hasattr(examples, "__getitem__"):
        raise UserError(f"{role} is {type(examples).__name__}: give (images, labels), a Dataset or a DataLoader")
    return [_pair(examples[i], role) for i in range(len(examples))]


def _pair(example: Any, role: str) -> tuple[Tensor, Any]:
    """Return image and label of an example, or images and labels of a batch."""
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise UserError(f"{role} holds {type(example).__name__}: expected pairs of image and label")
    if not isinstance(example[0], Tensor):
        raise UserError(f"{role}: images must be tensors: add torchvision.transforms.v2.ToImage() to the data set")
    return example[0], example[1]
