"""Import of checkpoints: every published form loads; anything else is an error of one line and changes nothing."""

import argparse
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.errors import UserError
from benchmark.networks import Network, build
from benchmark.networks.checkpoints import load_foreign
from benchmark.runs.weights import content_hash

State = dict[str, torch.Tensor]
Save = Callable[..., Path]


def trained(name: str = "resnet8", classes: int = 10, seed: int = 0) -> Network:
    """Return a network in which all entries, also those of batch norms, differ from fresh ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(name, classes)
        for key, tensor in network.state_dict().items():
            tensor.copy_(torch.tensor(7 + seed) if key.endswith("num_batches_tracked") else torch.rand_like(tensor))
    return network


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def sgd_state(network: Network) -> dict:
    """Return the state of an optimizer after a step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    torch.stack([p.sum() for p in network.parameters()]).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes a file with torch.save and returns its path."""

    def write(content, **options):
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path, **options)
        return path

    return write


def loads(path: Path, source: Network, name: str = "resnet8") -> bool:
    """Return whether loading `path` gives another network the weights of `source`."""
    network = build(name, source.head.out_features)
    load_foreign(path, network, name)
    return all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in network.state_dict().items())


def error_message(path: Path, name: str = "resnet8", classes: int = 10) -> str:
    """Return the one-line error of loading `path`, which must leave the network unchanged."""
    network = build(name, classes)
    before, mode = content_hash(network.state_dict()), network.training
    with pytest.raises(UserError) as error:
        load_foreign(path, network, name)
    assert content_hash(network.state_dict()) == before and network.training is mode
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


# ------------------------------------------------------------ accepted forms


@pytest.mark.parametrize("name", ["resnet8", "wrn16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18"])
def test_a_plain_state_dictionary_loads(save, name):
    source = trained(name)
    assert loads(save(source.state_dict()), source, name)


def test_wrapper_keys_and_prefixes_are_removed(save):
    source = trained()
    state = source.state_dict()
    for key in ("model", "state_dict", "model_state_dict", "net", "network", "weights"):
        assert loads(save({key: state, "epoch": 3}), source), key
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "model.", "net.module.", "module.student."):
        assert loads(save(prefixed(prefix, state)), source), prefix
        assert loads(save({"state_dict": prefixed(prefix, state)}), source), prefix
    assert loads(save(torch.nn.DataParallel(source).state_dict()), source)
    assert loads(save(torch.compile(source, backend="eager").state_dict()), source)


@pytest.mark.parametrize(
    "extra",
    [
        {"best_acc": torch.tensor([72.5])},
        {"best_acc": np.float64(72.5)},
        {"accuracy": np.float32(72.5), "epoch": np.int64(240)},
        {"opt": argparse.Namespace(model="resnet8", lr_decay_epochs=[150, 180, 210], learning_rate=0.05)},
    ],
)
@pytest.mark.parametrize("zip_format", [True, False])
def test_checkpoints_of_repdistiller_load_in_both_formats_of_torch(save, extra, zip_format):
    source = trained()
    content = {"epoch": 240, "model": source.state_dict(), "optimizer": sgd_state(trained()), **extra}
    assert loads(save(content, _use_new_zipfile_serialization=zip_format), source)


def test_a_numpy_scalar_written_under_numpy_1_loads(save):
    # NumPy 1 has the scalar's module at numpy.core, NumPy 2 at numpy._core
    source = trained()
    path = save({"model": source.state_dict(), "best_acc": np.float64(1.5)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"cnumpy._core.multiarray\n" in content
    path.write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert loads(path, source)


def test_of_a_distiller_the_network_that_fits_is_loaded(save):
    student, teacher = trained("resnet8"), trained("resnet14", seed=1)
    extra = {"module.conv_reg.conv.weight": torch.ones(4, 4, 1, 1), "module.memory": torch.ones(3)}
    state = prefixed("module.student.", student.state_dict()) | prefixed("module.teacher.", teacher.state_dict())
    path = save({"model": state | extra, "epoch": 1})
    assert loads(path, student, "resnet8") and loads(path, teacher, "resnet14")
    assert "resnet8 with 10 classes" in error_message(path, "resnet20")


def test_two_different_networks_that_fit_are_an_error(save):
    one, other = trained(seed=0), trained(seed=1)
    both = prefixed("student.", one.state_dict()) | prefixed("teacher.", other.state_dict())
    message = error_message(save({"model": both}))
    assert "2 different networks that fit resnet8" in message and "student" in message and "teacher" in message
    equal = prefixed("student.", one.state_dict()) | prefixed("teacher.", one.state_dict())
    assert loads(save({"model": equal}), one)


def test_weights_in_half_precision_are_cast(save):
    half = {k: v.half() if v.is_floating_point() else v for k, v in trained().state_dict().items()}
    network = build("resnet8", 10)
    dtypes = {k: v.dtype for k, v in network.state_dict().items()}
    load_foreign(save(half), network, "resnet8")
    for key, value in network.state_dict().items():
        assert value.dtype == dtypes[key] and torch.equal(value, half[key].to(value.dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_checkpoint_of_a_gpu_loads_on_a_gpu_with_the_same_hash(save):
    source = trained().cuda()
    assert content_hash(source.state_dict()) == content_hash(trained().state_dict())
    network = build("resnet8", 10).cuda()
    load_foreign(save({"model": source.state_dict()}), network, "resnet8")
    assert content_hash(network.state_dict()) == content_hash(source.state_dict())
    assert all(p.is_cuda for p in network.parameters())


# ------------------------------------------------------------ unreadable files


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_file_without_checksums_is_named(save, capsys, zip_format):
    source = trained()
    assert loads(save(source.state_dict(), _use_new_zipfile_serialization=zip_format), source)
    line = "checkpoint.pth: torch's older format has no checksums, so damage can go unnoticed: save it again with"
    assert (line in capsys.readouterr().err) is not zip_format


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    assert "no such checkpoint" in error_message(tmp_path / "none.pth")
    assert "cannot be opened" in error_message(tmp_path)


def test_a_fifo_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "teacher.pth")
    assert "cannot be opened (it is not a regular file)" in error_message(tmp_path / "teacher.pth")


def test_files_of_another_format_and_truncated_ones_are_not_readable(save):
    path = save(trained().state_dict(), _use_new_zipfile_serialization=False)
    old_format, zipped = path.read_bytes(), save(trained().state_dict()).read_bytes()
    for content in (
        b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02.", struct.pack("<64d", *range(64)),
        old_format[: len(old_format) // 2], zipped[: len(zipped) // 2],
    ):  # fmt: skip
        path.write_bytes(content)
        assert "not a readable checkpoint" in error_message(path)


def test_a_pickled_network_is_named(save):
    message = error_message(save({"model": trained()}))
    assert "benchmark.networks.resnet.CifarResNet" in message and "weights-only" in message


class OpensFile:
    """Creates a file when it is unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_code_in_a_checkpoint_is_not_run(save, tmp_path, plain_pickle):
    target = tmp_path / "target"
    content = {"model": trained().state_dict(), "best_acc": OpensFile(str(target))}
    path = save(content)
    if plain_pickle:
        path.write_bytes(pickle.dumps(content, protocol=2))
    error_message(path)
    assert not target.exists()


# ------------------------------------------------------------ content that does not fit


def test_content_without_a_state_dictionary_is_an_error(save):
    state = trained().state_dict()
    with_and_without_prefix = state | prefixed("module.", state)
    for content in (
        with_and_without_prefix, {}, {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}}, {"model": {}},
        {"model": {"conv1.weight": 3}}, {"model": {0: torch.ones(2)}}, [torch.ones(2)], torch.ones(2), None,
    ):  # fmt: skip
        assert "holds no state dictionary" in error_message(save(content))


@pytest.mark.parametrize("other", ["resnet14", "resnet8x4", "wrn16_2", "wrn10_1", "vgg13", "MobileNetV2", "ShuffleV2"])
def test_another_architecture_is_named(save, other):
    message = error_message(save({"model": prefixed("module.", trained(other, 7).state_dict())}))
    assert message.endswith(f"holds {other} with 7 classes, not resnet8")


@pytest.mark.parametrize("name", ["resnet8", "wrn16_1", "vgg8", "MobileNetV2", "ShuffleV1"])
def test_another_number_of_classes_is_named(save, name):
    path = save({"model": prefixed("module.student.", trained(name, 10).state_dict())})
    assert error_message(path, name, 100).endswith("has 10 classes, this data set has 100")


def remove(key: str) -> Callable[[State], object]:
    return lambda state: state.pop(key)


def change(key: str, function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], object]:
    return lambda state: state.update({key: function(state[key])})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (remove("layer1.0.bn1.running_mean"), "1 missing (layer1.0.bn1.running_mean)"),
        (lambda state: state.update({"aux.weight": torch.ones(2)}), "1 unexpected (aux.weight)"),
        (lambda state: state.update({"conv1.old": state.pop("conv1.weight")}),
         "1 missing (conv1.weight); 1 unexpected (conv1.old)"),
        (change("conv1.weight", lambda t: t[:, :1]), "1 of another shape or type (conv1.weight)"),
        (change("conv1.weight", lambda t: t.long()), "1 of another shape or type (conv1.weight)"),
        (change("conv1.weight", lambda t: t.to_sparse()), "1 of another shape or type (conv1.weight)"),
        (remove("fc.weight"), "1 missing (fc.weight)"),
        (change("fc.weight", lambda t: t.flatten()), "1 of another shape or type (fc.weight)"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_entries_that_do_not_fit_are_named(save, edit, message):
    state = dict(trained().state_dict())
    edit(state)
    error = error_message(save(state))
    assert "fits neither resnet8 nor another network of this benchmark" in error and error.endswith(message)


def test_the_first_missing_entries_of_an_unknown_network_are_named(save):
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).state_dict()
    assert " missing (bn1.bias, bn1.num_batches_tracked, …)" in error_message(save(state))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error(save, value):
    state = trained().state_dict()
    state["layer2.0.bn1.running_var"][3] = value
    assert "'layer2.0.bn1.running_var' holds values that are not finite" in error_message(save(state))
