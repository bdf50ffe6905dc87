"""The frozen networks that are probed."""

from benchmark import networks
from benchmark.networks import Network, custom
from benchmark.runs.folder import RunFolder
from benchmark.runs.weights import DamagedFile, load_recorded_weights, recorded_classes


def load_network(folder: RunFolder) -> Network:
    """Return the trained network of a finished run, on the CPU, in eval mode and without gradients.

    Layers that a method keeps at inference, as SimKD's projector, are no part of it. Raises DamagedFile where a file of
    the run cannot be used, UserError where the network cannot be built.
    """
    config, record = folder.config, folder.record
    custom.add_all(config.tree.get("networks", {}))
    name = record.network or config.tree.get("network")
    if not isinstance(name, str):
        raise DamagedFile(f"{folder.path} does not say which network it trained")
    network = networks.build(name, recorded_classes(folder)[0], image_size(folder))
    network.load_state_dict(load_recorded_weights(folder, record.sha256))
    return network.eval().requires_grad_(False)


def image_size(folder: RunFolder) -> int:
    """Return the side in pixels of the images that a run was trained on. Raises DamagedFile where none is recorded."""
    size = folder.config.dataset.get("size")
    if not isinstance(size, int):
        raise DamagedFile(f"{folder.path / 'config.yaml'} has no dataset.size")
    return size
