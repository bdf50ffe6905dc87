"""Fixtures for the tests of the methods: their YAML files as options, shapes of small networks, batches and outputs."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import methods
from methods.contract import Batch, Context, Outputs, Shapes
from methods.options import build_options, restrict

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = sorted(p.stem for p in (CONF / "method").glob("*.yaml"))
CLASSES, TRAIN_SIZE, POOLED = 5, 40, 6
STAGES = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 2, 2))
LAST_MAP = (POOLED, 2, 2)
GRIDS = (2, 4)  # sizes of the class activation maps that some YAML reads


@pytest.fixture(scope="session")
def read_yaml():
    """read_yaml(name): the resolved content of conf/method/<name>.yaml for a run of 20 epochs."""
    OmegaConf.register_new_resolver("scaled", lambda epochs: epochs * 20 / 240, replace=True)

    @functools.cache
    def resolve(name):
        return OmegaConf.to_container(merge_defaults(name), resolve=True)

    return lambda name: copy.deepcopy(resolve(name))


@functools.cache
def merge_defaults(name):
    """Load a method's YAML and those of its defaults list, as Hydra merges them but without its setup time."""
    tree = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    merged = OmegaConf.create()
    for entry in tree.pop("defaults", []):
        if entry != "_self_":
            base, _, package = entry.partition("@")
            merged = OmegaConf.merge(merged, {package: merge_defaults(base)} if package else merge_defaults(base))
    return OmegaConf.merge(merged, tree)


@pytest.fixture(scope="session")
def make_options(read_yaml):
    """make_options(name, **changes): the implementation and options of a YAML, with some values changed."""

    def build(name, **changes):
        tree = read_yaml(name)
        implementation = methods.load(tree["implementation"])
        values = OmegaConf.to_container(OmegaConf.merge(restrict(implementation.Options, tree), changes))
        return implementation, build_options(implementation.Options, values)

    return build


@pytest.fixture(scope="session")
def make(make_options):
    """make(name, context, **changes): the method of a YAML with some options changed, by default on small networks."""

    def build(name, context=None, **changes):
        implementation, options = make_options(name, **changes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            method = implementation(options, context or small_context())
        if method.requires.teacher_features:
            with torch.no_grad():
                method.on_teacher_features(*training_features(method.context))
        return method

    return build


def training_features(context):
    """Random pooled features of the teacher for the training images, which differ in their means by class; labels."""
    labels = context.train_labels
    generator = torch.Generator().manual_seed(7)
    means = 2 * torch.randn(context.classes, context.teacher.pooled, generator=generator)
    noise = torch.randn(len(labels), context.teacher.pooled, generator=generator)
    return means[labels] + noise, labels


def small_context():
    """Context of 5 classes, 40 training samples and networks with small maps."""
    shapes = Shapes(STAGES, POOLED, LAST_MAP, batch_norms=True)
    return Context(CLASSES, shapes, shapes, torch.arange(TRAIN_SIZE) % CLASSES, 20, batch_norms(STAGES, seed=0))


def batch_norms(stages, seed, dtype=torch.float32):
    """Random parameters of the teacher's batch norms: stage -> bias [C_k] and absolute scale [C_k]."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {k: 2 * torch.randn(2, c, generator=generator, dtype=dtype) for k, (c, *_) in enumerate(stages)}
    return {k: (bias, scale.abs()) for k, (bias, scale) in parameters.items()}


def randn(*shape, seed):
    """Draw standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def halved(maps):
    """Average-pool maps [N, C, H, W] to half their height and width, with NumPy or torch."""
    n, c, h, w = maps.shape
    return maps.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


@pytest.fixture(scope="session")
def make_batch():
    """make_batch(n, seed, epoch): n distinct samples of the small context, without images; a fresh generator."""

    def build(n, seed=0, epoch=1):
        indices = torch.randperm(TRAIN_SIZE, generator=torch.Generator().manual_seed(seed))[:n]
        return Batch([], indices % CLASSES, indices, epoch, torch.Generator().manual_seed(seed + 1))

    return build


@pytest.fixture(scope="session")
def make_outputs():
    """make_outputs(n, seed, dtype, grad): random outputs for two views, of a network with the small context's shapes.

    All tensors are leaves; those of the further view come last.
    """

    def build(n, seed=0, dtype=torch.float64, grad=False):
        generator = torch.Generator().manual_seed(seed)

        def leaf(*shape):
            return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_(grad)

        def one_view():
            logits, pooled = leaf(n, CLASSES), leaf(n, POOLED)
            maps, pre_activations = ({k: leaf(n, *shape) for k, shape in enumerate(STAGES)} for _ in range(2))
            class_maps = {m: leaf(n, CLASSES, m, m) for m in GRIDS}
            return Outputs(logits, pooled, maps, pre_activations, leaf(n, *LAST_MAP), class_maps)

        outputs = one_view()
        outputs.further_views = [one_view()]
        return outputs

    return build
