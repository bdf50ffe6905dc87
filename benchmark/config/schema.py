"""Typed options and their limits: of a training command, of a resolved method, and of each further command.

The values are in `conf/`. Option names are persisted in run folders. No torch here: tables are made by these options.
"""

from dataclasses import dataclass, field
from typing import Any

from methods.options import (
    Limits,
    boolean,
    bounded,
    dotted_values,
    identity_values,
    integer,
    non_negative,
    one_of,
    option,
    positive,
)

DATASETS = ("digits", "cifar10", "cifar100", "stl10", "tinyimagenet", "imagenet", "npz", "imagefolder")
USER_DATASETS = ("npz", "imagefolder")  # of the user's images, under a name of their own
ALL_IMAGES = "all"  # value of `teacher.train_size`
FILE_DATASETS = ("tinyimagenet", "imagenet", "imagefolder")  # of image files, which can be streamed from the disk
CROP, RESIZED_CROP = "crop", "resized_crop"  # values of `dataset.augmentation`
MIN_IMAGE_SIZE = 16  # pixels a side; smaller images vanish in the deeper networks
MAX_IMAGE_SIZE = 1024  # a larger size is a typing mistake, for which memory would be allocated
MAX_WORKERS = 256  # likewise


def _or_null(limited: Any) -> Any:
    """Return a field that is null where a file of `conf/` leaves it out."""
    return _or(limited, None)


def _or(limited: Any, default: Any) -> Any:
    """Return a field that has this value where a file of `conf/` leaves it out.

    The identity of a run leaves out an option of its data set or recipe that has this value, so that runs made before
    the option existed are found.
    """
    limited.default = default
    return limited


@dataclass
class Recipe:
    """Training recipe, shared by the teacher, the student alone and every method."""

    epochs: int = integer(1)
    batch_size: int = integer(2)
    lr: float | None = positive()  # null: lr_default, or lr_light for the light networks
    lr_default: float = positive()
    lr_light: float = positive()
    momentum: float = bounded(at_least=0.0, below=1.0)
    nesterov: bool = boolean()
    weight_decay: float = non_negative()
    milestones: list[float] = non_negative()  # the rate drops in epochs, counted from 1, above each of these
    gamma: float = positive()  # factor of each drop
    name: str | None = _or_null(option())  # as results and tables name it; not part of a run's identity
    # take batch size and rate that a method was published with on the data set, from its file in conf/method
    per_method: bool = _or(boolean(), False)
    schedule: str = _or(one_of("step", "cosine"), "step")  # cosine: from lr to min_lr in the last epoch, once per epoch
    min_lr: float = _or(non_negative(), 0.0)  # of schedule=cosine
    warmup_epochs: int = _or(integer(0), 0)  # epochs in which the rate rises linearly from warmup_lr
    warmup_lr: float = _or(non_negative(), 0.0)
    optimizer: str = _or(one_of("sgd", "adamw"), "sgd")  # adamw: without momentum and nesterov
    decay_vectors: bool = _or(boolean(), True)  # weight decay also of biases, norms and embeddings of positions
    clip_norm: float | None = _or_null(positive())  # largest norm of the gradient of all parameters
    ema_decay: float | None = _or_null(bounded(at_least=0.0, below=1.0))  # evaluate the weights' moving average
    smoothing: float = _or(bounded(at_least=0.0, below=1.0), 0.0)  # of the labels in the cross-entropy
    mixup: float = _or(non_negative(), 0.0)  # alpha of mixup, of half of the batches where cutmix is on, too; 0: off
    cutmix: float = _or(non_negative(), 0.0)  # alpha of CutMix, likewise
    erasing: float = _or(bounded(at_least=0.0, at_most=1.0), 0.0)  # share of the images of which a rectangle is erased
    rand_augment: str | None = _or_null(option())  # RandAugment in timm's notation, as rand-m9-mstd0.5-inc1


@dataclass
class TeacherConfig:
    """Where the teacher comes from and how its outputs are cached."""

    checkpoint: str | None = option()  # a file to import; null: train the teacher
    pretrained: bool = boolean()  # take timm's weights of the teacher instead of training it
    seed: int = integer(0)
    method: str = option()  # the method that trains the teacher
    # training images of the teacher, those of its students included; null: theirs alone; all: every one that is not
    # held out for validation
    train_size: str | None = option()
    cache_gb: float = non_negative()  # largest cache of its outputs; 0: none, the teacher runs live
    cache_dir: str | None = option()  # folder of the caches, such as $TMPDIR of a node; null: the teacher's own folder
    # minimum test accuracy in per cent; null: twice chance
    min_top1: float | None = bounded(at_least=0.0, at_most=100.0)

    @property
    def imported(self) -> bool:
        """Whether the teacher's weights are given, so that it is not trained."""
        return self.checkpoint is not None or self.pretrained


@dataclass
class TrackerConfig:
    """What records runs, in addition to their folders: Weights & Biases, TensorBoard or trackio."""

    name: str = one_of("wandb", "tensorboard", "trackio", "none")
    mode: str = one_of("auto", "online", "offline", "off")  # trackers other than W&B know auto and off
    project: str = option()  # of W&B and trackio
    entity: str | None = option()
    init_timeout: float = positive()  # seconds to wait for W&B's server before continuing offline
    finish_timeout: float = positive()  # seconds that a tracker may take at the end of a run
    retry_timeout: float = positive()  # likewise for the second attempt


@dataclass
class ExecutorConfig:
    """What executes the runs of a grid, and with which resources each. Keys of another executor stay null."""

    name: str = one_of("local", "slurm", "ray")
    cpus: int | None = _or_null(integer(1))  # cores of a run
    gpus: float | None = _or_null(non_negative())  # of a run; a share of one on Ray, several with distributed=true
    minutes: int | None = _or_null(integer(1))  # time limit of a Slurm job
    signal_s: int | None = _or_null(integer(1))  # seconds before it at which a run ends and is requeued
    requeues: int | None = _or_null(integer(0))  # how often a run may reach it
    partition: str | None = _or_null(option())
    account: str | None = _or_null(option())
    mem_gb: float | None = _or_null(positive())  # memory of a run
    array_parallelism: int | None = _or_null(integer(1))  # most runs of a job array at a time
    extra: str | None = _or_null(option())  # further options of sbatch
    setup: str | None = _or_null(option())  # shell command before each run of a Slurm job
    address: str | None = _or_null(option())  # of a Ray cluster; null: a local one is started
    retries: int | None = _or_null(integer(0))  # of a run whose Ray node died


@dataclass
class DatasetConfig:
    """A data set and its augmentation. Options with `location` say where and how images are read, which does not alter
    them; they are not part of a run's identity."""

    name: str = option()  # that of the source, or of the user's own data: see `checks.check_dataset_name`
    source: str = option(Limits(choices=DATASETS), location=True)  # what reads the images: a file of conf/dataset
    size: int = integer(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE)  # pixels a side; other images are resized
    padding: int = integer(0)  # zeros around an image, in pixels, from which a crop of `size` is taken at random
    flip: bool = boolean()  # mirror half of the images
    mean: list[float] | None = option()  # of each channel, on a scale of 0 to 1; null: that of the training images
    std: list[float] | None = positive()  # likewise, the standard deviation
    train_size: int | None = integer(1)  # training images to use, stratified by class; null: all
    test_size: int | None = integer(1)  # likewise of the test images
    validation: float = bounded(at_least=0.0, below=1.0)  # share of the training images held out
    split_seed: int = integer(0)  # decides which training images are used and which are held out
    file: str | None = option(location=True)  # of npz, absolute or below the data folder
    root: str | None = option(location=True)  # folder of the image files, absolute or below the data folder
    augmentation: str = _or(one_of(CROP, RESIZED_CROP), CROP)  # padded crops; or RandomResizedCrop of the photographs
    rotation: float = _or(non_negative(180.0), 0.0)  # rotate each image by up to so many degrees, after the crop
    classes: int | None = _or_null(integer(2))  # the first classes of tinyimagenet or imagenet to use; null: all
    decoder: str | None = _or_null(one_of("pil", "dali"))  # what decodes streamed images; null for those kept in memory
    loading: str = _or(option(Limits(choices=("auto", "device", "stream")), location=True), "auto")
    workers: int | None = _or_null(option(Limits(at_least=0, at_most=MAX_WORKERS), location=True))
    cache_dir: str | None = _or_null(option(location=True))  # folder of resized copies of streamed images


@dataclass
class Config:
    """Options of a training command: data set × pairs × methods × seeds under one recipe."""

    pair: list[str] = option()
    methods: list[str] = option()
    seeds: list[int] = integer(0)
    references: bool = boolean()  # add the student alone and KD to the chosen methods
    profile: str = option()
    dataset: DatasetConfig = option()
    recipe: Recipe = option()
    method: dict[str, Any] = option()
    network: dict[str, Any] = option()  # the user's own networks, by name: see `benchmark.config.own_networks`
    teacher: TeacherConfig = option()
    tracker: TrackerConfig = option()
    executor: ExecutorConfig = option()
    precision: str = one_of("auto", "fp32", "bf16")
    device: str = one_of("auto", "cpu", "cuda")
    threads: int = integer(0)  # CPU threads of a run; 0: all cores, shared by the jobs
    compile: bool = boolean()  # torch.compile for the student's forward pass, the losses and the live teacher
    cuda_graph: bool | None = boolean()  # capture training steps as CUDA graphs; null: on a GPU
    # runs trained side by side, on each of several GPUs: in one process where one GPU captures steps, else in processes
    jobs: int = integer(1)
    distributed: bool = boolean()  # several processes train a run together, with the same result
    processes: int | None = integer(1)  # how many; null: one for each GPU
    batch_norm_statistics: str = one_of(
        "global", "local"
    )  # of the student in them: of the whole batch or of each share
    evaluate_every: int = integer(1)  # epochs between two evaluations, counted back from the last
    runs: str = option()
    reports: str = option()
    selection: str | None = option()  # name of the files of tables and plots; null: made of pairs and methods
    data: str = option()


@dataclass(frozen=True)
class MethodConfig:
    """A method's YAML file, resolved for one pair."""

    name: str
    implementation: str
    about: dict[str, Any]  # title, paper, family …, for tables
    options: Any  # an instance of the implementation's Options
    tune: dict[str, Any]  # search space of `tune` where it differs from the default one, by dotted name
    defaults: Any  # the options without overrides
    recipe: dict[str, Any] = field(default_factory=dict)  # recipe keys that it was published with on the data set

    def resolved(self) -> dict[str, Any]:
        """Return the part that belongs to a run's identity."""
        return {"name": self.name, "implementation": self.implementation, **identity_values(self.options)}

    @property
    def values(self) -> dict[str, Any]:
        """The options by dotted name."""
        return dotted_values(self.options)

    @property
    def changed(self) -> list[str]:
        """Dotted names of the options that differ from their defaults."""
        defaults = dotted_values(self.defaults)
        return [name for name, value in self.values.items() if value != defaults[name]]


@dataclass
class PlanOptions:
    """Keys of `plan`, in addition to those of a training command."""

    probe: bool = boolean()
    list: bool = boolean()


@dataclass
class TuneOptions:
    """Keys of `tune`, in addition to those of a training command."""

    trials: int = integer(1)
    sampler_seed: int = integer(0)


@dataclass
class AblateOptions:
    """Keys of `ablate`, in addition to those of a training command."""

    method: str | None = option()
    grid: list[str] = option()
    setting: str | None = option()
    train: str = one_of("all", "teacher", "none")


@dataclass
class SpeedOptions:
    """Keys of `speed`, in addition to those of a training command."""

    profile: str = option()
    rounds: int = integer(2)  # fewer samples than two have no interquartile range
    steps: int = integer(1)


@dataclass
class RunFilters:
    """Keys of the commands that read finished runs: their folder, and filters of names; an empty one passes all."""

    runs: str = option()
    dataset: list[str] = option()
    profile: list[str] = option()
    pair: list[str] = option()
    method: list[str] = option()
    identity: list[str] = option()


@dataclass
class AnalysisOptions(RunFilters):
    """Keys of the analysis commands: filters, and of tables and figures."""

    reports: str = option()
    where: list[str] = option()
    selection: str | None = option()
    command: str | None = option()
    name: list[str] = option()
    grid: list[str] = option()
    pairwise: bool = boolean()
    accuracy: str = one_of("top1", "top5", "both")
    target: list[str] = option()  # data sets of linear probes
    highlight: list[str] = option()  # methods that stand out in figures of many
    titles: bool = boolean()  # of figures
    width: str = one_of("page", "column")  # of figures


@dataclass
class StudentFilters(RunFilters):
    """Keys of the commands that read the weights of finished students."""

    seeds: list[str] = option()


@dataclass
class ExportOptions(StudentFilters):
    """Keys of `export`: one run, or filters."""

    exports: str = option()
    run: str | None = option()


@dataclass
class TransferOptions(StudentFilters):
    """Keys of `transfer`: the students, the targets, and the protocol of the linear probe."""

    to: list[str] = option()  # names of data sets
    data: str = option()
    reports: str = option()
    teachers: bool = boolean()  # probe the teachers of the students, too
    size: int | None = integer(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE)  # pixels a side; null: the student's own
    padding: int = integer(0)
    flip: bool = boolean()
    epochs: int = integer(1)
    batch_size: int = integer(1)
    lr: float = positive()
    momentum: float = bounded(at_least=0.0, below=1.0)
    weight_decay: float = non_negative()
    milestones: list[float] = non_negative()  # the rate drops in epochs, counted from 1, above each of these
    gamma: float = positive()  # factor of each drop
    init_std: float = non_negative()  # of the new layer's weights
    probe_seed: int = integer(0)  # of the new layer, the order and the views: the same for all students
    features_gb: float = non_negative()  # largest file of one student's features; above, they are computed every epoch
    features_dir: str | None = option()  # folder of these files; null: the folder of the probe
    device: str = one_of("auto", "cpu", "cuda")
    threads: int = integer(0)
    jobs: int = integer(1)


@dataclass
class SyncOptions:
    """Keys of `sync`."""

    runs: str = option()


@dataclass
class ScaleOptions:
    """Keys of `scale`."""

    n: int = integer(40)  # so that a quarter of the runs has two seeds of every method


@dataclass
class SimulateOptions:
    """Keys of `simulate`."""

    tables: int = integer(1)
    seed: int = integer(0)
