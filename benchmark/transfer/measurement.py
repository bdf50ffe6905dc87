"""One measurement: the features of a frozen network on a target, and the linear layer trained on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from benchmark.data.datasets import Dataset, Split
from benchmark.errors import UserError
from benchmark.grid.build import to_device
from benchmark.networks import Network
from benchmark.training.evaluation import evaluation_batch_size
from benchmark.transfer.features import Extractor, LiveFeatures, StoredFeatures, reason_for_live
from benchmark.transfer.probe import LabeledFeatures, ProbeRecipe, new_layer, train_probe
from benchmark.transfer.views import Views

FEATURES_SHARE = 0.95  # of the progress, where features are computed before the layer is trained


@dataclass(frozen=True)
class FeatureStore:
    """Where features are kept while a probe is in progress. key: what they depend on besides the target's views."""

    path: Path
    limit_gb: float
    key: Mapping[str, Any]


@dataclass(frozen=True)
class Measurement:
    """A trained probe. lines: the metrics of each epoch. views: number of distinct views that the epochs visit.
    file_bytes: size that the file of features had; 0 for none."""

    layer: nn.Linear
    lines: list[dict[str, float]]
    views: int
    file_bytes: int
    features_s: float


def measure(
    network: Network, dataset: Dataset, recipe: ProbeRecipe, store: FeatureStore, device: str, *,
    report: Callable[[float], None] = lambda share: None, announce: Callable[[str], None] = lambda line: None,
) -> Measurement:  # fmt: skip
    """Probe a network on a data set. The file of features is removed at the end, and kept for the next attempt where
    this one is interrupted.

    report: receives the share that is done. announce: receives a line about features that are not kept. Raises
    UserError where the network has no pooled features, Diverged where the loss is not finite.
    """
    if "pooled" in network.missing:
        raise UserError("the network does not provide pooled features, which a linear probe reads")
    assert isinstance(dataset.test, Split), "a probe reads images in memory"
    network, views = to_device(network, device), Views(dataset, recipe.seed, device)
    extractor = Extractor(network, min(evaluation_batch_size(device, dataset.config.size), views.size))
    test = LabeledFeatures(extractor.of_split(dataset.test.to(device), dataset.config), dataset.test.labels)
    visited, length = views.visited(recipe.epochs), test.features.shape[1]
    stored = StoredFeatures(store.path, visited, length, {**store.key, "batch": extractor.batch})
    if reason := reason_for_live(stored.file_bytes, store.path.parent, store.limit_gb):
        announce(f"features are computed anew in every epoch: {reason}")
        done = _Counter(report, recipe.epochs * views.size)
        source = LiveFeatures(extractor, views, done)
    else:
        done = _Counter(report, len(visited) / FEATURES_SHARE)
        stored.fill(extractor, views, done)
        source = stored
    layer = new_layer(length, dataset.classes, recipe)
    lines = train_probe(source, views.draw, views.labels, test, layer, recipe, device)
    stored.remove()
    return Measurement(layer, lines, len(visited), source.file_bytes, extractor.seconds)


class _Counter:
    """Sums up images that are done and reports their share of a total."""

    def __init__(self, report: Callable[[float], None], total: float) -> None:
        self._report, self._total, self._done = report, total, 0

    def __call__(self, images: int) -> None:
        self._done += images
        self._report(min(self._done / self._total, 1.0))
