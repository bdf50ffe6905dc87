"""Fixtures for the tests of the methods: their YAML files as options, small networks' shapes, and batches."""

import copy
import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import methods
from methods.contract import Batch, Context, Outputs, Shapes

CONF = Path(__file__).resolve().parents[2] / "conf"
CLASSES, TRAIN, POOLED = 5, 40, 6
STAGES = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 2, 2))
FINAL = (POOLED, 2, 2)


@pytest.fixture(scope="session")
def read_yaml():
    """read_yaml(name): the resolved content of conf/method/<name>.yaml, for a run of 20 epochs."""

    @functools.cache
    def compose_once(name):
        OmegaConf.register_new_resolver("scaled", lambda epochs: epochs * 20 / 240, replace=True)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return OmegaConf.to_container(compose(None, [f"+method={name}"]).method, resolve=True)

    return lambda name: copy.deepcopy(compose_once(name))


@pytest.fixture(scope="session")
def make(read_yaml):
    """make(name, context, **changes): the method of a YAML, with some options changed; the context is small if None."""

    def build(name, context=None, **changes):
        tree = read_yaml(name)
        implementation = methods.load(tree["implementation"])
        tree = only(implementation.Options, tree)
        schema = OmegaConf.structured(implementation.Options)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return implementation(OmegaConf.to_object(OmegaConf.merge(schema, tree, changes)), context or small())

    return build


def only(schema, tree):
    """The options in a YAML's content."""
    return {
        f.name: only(f.type, tree[f.name]) if dataclasses.is_dataclass(f.type) else tree[f.name]
        for f in dataclasses.fields(schema)
    }


def small(labels=None):
    """A context of 5 classes, 40 training samples and small maps."""
    shapes = Shapes(STAGES, POOLED, FINAL, norms=True)
    return Context(CLASSES, shapes, shapes, torch.arange(TRAIN) % CLASSES if labels is None else labels, epochs=20)


@pytest.fixture(scope="session")
def make_batch():
    """make_batch(n, seed, epoch): n distinct samples of the small context, without images; a fresh generator."""

    def build(n, seed=0, epoch=1):
        own = torch.Generator().manual_seed(seed)
        indices = torch.randperm(TRAIN, generator=own)[:n]
        labels = indices % CLASSES
        views, own = torch.zeros(n).long(), torch.Generator().manual_seed(seed + 1)
        return Batch(None, labels, indices, views, epoch, own)

    return build


@pytest.fixture(scope="session")
def make_outputs():
    """make_outputs(n, seed, dtype, grad): random outputs, of leaves, of a network with the small context's shapes."""

    def build(n, seed=0, dtype=torch.float64, grad=False):
        own = torch.Generator().manual_seed(seed)

        def leaf(*shape):
            return (2 * torch.randn(shape, generator=own, dtype=torch.float64)).to(dtype).requires_grad_(grad)

        def one():
            logits, pooled = leaf(n, CLASSES), leaf(n, POOLED)
            maps, preact = ({k: leaf(n, *shape) for k, shape in enumerate(STAGES)} for _ in range(2))
            cams = {m: leaf(n, CLASSES, m, m) for m in (2, 4)}
            norms = {k: (leaf(c).detach(), leaf(c).detach().abs()) for k, (c, *_) in enumerate(STAGES)}
            return Outputs(logits, pooled, maps, preact, leaf(n, *FINAL), cams, norms)

        outputs = one()
        outputs.second = one()
        return outputs

    return build
