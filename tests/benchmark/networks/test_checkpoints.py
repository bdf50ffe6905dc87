"""Checkpoints from elsewhere: every published form loads, anything else is refused in one line and changes nothing."""

import argparse
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from benchmark.errors import UserError
from benchmark.networks import build
from benchmark.networks.checkpoints import load_foreign
from benchmark.runs.weights import DamagedFile, content_hash, load_weights


def trained(name="resnet8", classes=10, seed=0):
    """A network whose every entry, the batch norms' included, differs from a fresh one's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(name, classes)
        for key, tensor in network.state_dict().items():
            tensor.copy_(torch.tensor(7 + seed) if key.endswith("num_batches_tracked") else torch.rand_like(tensor))
    return network


def prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


def sgd_state(network):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    sum(p.sum() for p in network.parameters()).backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.fixture
def save(tmp_path):
    def write(content, **options):
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path, **options)
        return path

    return write


def loads(path, source, name="resnet8"):
    """Whether `path` turns an unlike network into `source`, with the same function."""
    network = build(name, source.state_dict()[list(source.state_dict())[-1]].shape[0])
    load_foreign(path, network, name)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = torch.equal(network.eval()(x).logits, source.eval()(x).logits)
    return same and all(torch.equal(v, source.state_dict()[k]) for k, v in network.state_dict().items())


def refusal(path, name="resnet8", classes=10):
    """The one-line refusal of `path`, the network being left alone."""
    network = build(name, classes)
    before, mode = content_hash(network.state_dict()), network.training
    with pytest.raises(UserError) as error:
        load_foreign(path, network, name)
    assert content_hash(network.state_dict()) == before
    assert network.training is mode
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["resnet8", "wrn16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18"])
def test_a_plain_state_dictionary(save, name):
    source = trained(name)
    assert loads(save(source.state_dict()), source, name)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "net", "network", "weights"])
def test_a_state_dictionary_under_a_usual_key(save, key):
    source = trained()
    assert loads(save({key: source.state_dict(), "epoch": 3}), source)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.module."])
def test_prefixes_of_wrappers(save, prefix):
    source = trained()
    assert loads(save(prefixed(prefix, source.state_dict())), source)
    assert loads(save({"state_dict": prefixed(prefix, source.state_dict())}), source)


def test_prefixes_as_torch_really_writes_them(save):
    source = trained()
    assert loads(save(torch.nn.DataParallel(source).state_dict()), source)
    assert loads(save(torch.compile(source, backend="eager").state_dict()), source)


@pytest.mark.parametrize(
    "more",
    [
        {"best_acc": torch.tensor([72.5])},
        {"best_acc": np.float64(72.5)},
        {"accuracy": np.float32(72.5), "epoch": np.int64(240)},
        {"opt": argparse.Namespace(model="resnet8", lr_decay_epochs=[150, 180, 210], learning_rate=0.05)},
    ],
)
@pytest.mark.parametrize("new_format", [True, False])
def test_the_form_of_repdistiller(save, more, new_format):
    """{"epoch", "model", "best_acc" or "accuracy" or "opt", "optimizer"}; older ones in the format before zip."""
    source = trained()
    content = {"epoch": 240, "model": source.state_dict(), "optimizer": sgd_state(trained()), **more}
    assert loads(save(content, _use_new_zipfile_serialization=new_format), source)


def test_a_numpy_scalar_as_numpy_1_wrote_it(tmp_path):
    """NumPy 1 named the scalar's module numpy.core, NumPy 2 names it numpy._core, of another length."""
    source = trained()
    path = tmp_path / "old.pth"
    torch.save({"model": source.state_dict(), "best_acc": np.float64(1.5)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"cnumpy._core.multiarray\n" in content
    path.write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert loads(path, source)


def test_the_form_of_mdistiller_for_a_student_alone(save):
    """student_best holds the student; best holds the state of the whole distiller, within DataParallel."""
    source = trained()
    assert loads(save({"model": source.state_dict()}), source)
    whole = prefixed("module.student.", source.state_dict())
    content = {"epoch": 240, "model": whole, "optimizer": sgd_state(trained()), "best_acc": torch.tensor([72.5])}
    assert loads(save(content), source)


def test_of_a_distiller_the_network_that_fits_is_taken(save):
    student, teacher = trained("resnet8"), trained("resnet14", seed=1)
    extra = {"module.conv_reg.conv.weight": torch.ones(4, 4, 1, 1), "module.memory": torch.ones(3)}
    state = prefixed("module.student.", student.state_dict()) | prefixed("module.teacher.", teacher.state_dict())
    path = save({"model": state | extra, "epoch": 1})
    assert loads(path, student, "resnet8")
    assert loads(path, teacher, "resnet14")
    assert "resnet8 with 10 classes" in refusal(path, "resnet20")


def test_a_distiller_with_two_networks_that_fit_is_refused_unless_they_are_equal(save):
    one, other = trained(seed=0), trained(seed=1)
    both = prefixed("student.", one.state_dict()) | prefixed("teacher.", other.state_dict())
    message = refusal(save({"model": both}))
    assert "2 different networks that fit resnet8" in message
    assert "student" in message and "teacher" in message
    same = prefixed("student.", one.state_dict()) | prefixed("teacher.", one.state_dict())
    assert loads(save({"model": same}), one)


def test_weights_in_half_precision_are_taken_up_in_the_networks_own(save):
    source = trained()
    half = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    network = build("resnet8", 10)
    load_foreign(save(half), network, "resnet8")
    for key, value in network.state_dict().items():
        assert value.dtype == source.state_dict()[key].dtype
        torch.testing.assert_close(value, half[key].to(value.dtype), rtol=0, atol=0)


def test_a_missing_file(tmp_path):
    assert "no such checkpoint" in refusal(tmp_path / "none.pth")


def test_a_folder(tmp_path):
    assert "cannot be opened" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02.", struct.pack("<64d", *range(64))]
)
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    assert "not a readable checkpoint" in refusal(path)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file(save, new_format):
    path = save(trained().state_dict(), _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "not a readable checkpoint" in refusal(path)


def places(content):
    """Where a file is to be damaged: all over it, and often."""
    return range(0, len(content), len(content) // 150)


def test_an_overwritten_byte_is_noticed_or_does_no_harm(save):
    # torch.load takes a flipped byte among the weights as a number
    state = trained().state_dict()
    path = save(state)
    whole, noticed = path.read_bytes(), 0
    for at in places(whole):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            found = load_weights(path)
        except DamagedFile as e:
            noticed += 1
            assert str(e) == f"{path} is damaged"
            assert "damaged" in refusal(path)
        else:  # a byte that says nothing, such as the padding before the numbers
            assert content_hash(found) == content_hash(state)
    assert noticed > 100


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip"])
def test_what_is_no_file_of_a_run_is_damaged(tmp_path, save, content):
    (tmp_path / "weights.pt").write_bytes(content)
    for path in (tmp_path / "weights.pt", tmp_path / "none.pt", save(torch.zeros(2))):
        with pytest.raises(DamagedFile):
            load_weights(path)


def test_a_pickled_network_is_named_and_refused(save):
    message = refusal(save({"model": trained()}))
    assert "benchmark.networks.resnet.CifarResNet" in message
    assert "weights-only" in message


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_code_in_a_checkpoint_is_not_run(save, tmp_path, plain_pickle):
    target = tmp_path / "ran"
    content = {"model": trained().state_dict(), "best_acc": Evil(str(target))}
    path = save(content)
    if plain_pickle:
        path.write_bytes(pickle.dumps(content, protocol=2))
    refusal(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
        {"model": {}},
        {"model": {"conv1.weight": 3}},
        {"model": {0: torch.ones(2)}},
        [torch.ones(2)],
        torch.ones(2),
        None,
    ],
)
def test_no_state_dictionary_inside(save, content):
    assert "holds no state dictionary" in refusal(save(content))


@pytest.mark.parametrize("held", ["resnet14", "resnet8x4", "wrn16_2", "wrn10_1", "vgg13", "MobileNetV2", "ShuffleV2"])
def test_another_architecture_is_named(save, held):
    message = refusal(save({"model": prefixed("module.", trained(held, 7).state_dict())}))
    assert message.endswith(f"holds {held} with 7 classes, not resnet8")


@pytest.mark.parametrize("name", ["resnet8", "wrn16_1", "vgg8", "MobileNetV2", "ShuffleV1"])
def test_another_class_count_is_named(save, name):
    path = save({"model": prefixed("module.student.", trained(name, 10).state_dict())})
    assert refusal(path, name, 100).endswith("has 10 classes, this data set has 100")


def without(key):
    return lambda state: state.pop(key)


def renamed(key):
    return lambda state: state.update({f"{key}_old": state.pop(key)})


def changed(key, function):
    return lambda state: state.update({key: function(state[key])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer1.0.bn1.running_mean"), "1 missing (layer1.0.bn1.running_mean)"),
        (lambda state: state.update({"aux.weight": torch.ones(2)}), "1 unexpected (aux.weight)"),
        (renamed("conv1.weight"), "1 missing (conv1.weight); 1 unexpected (conv1.weight_old)"),
        (changed("conv1.weight", lambda t: t[:, :1]), "1 of another shape or type (conv1.weight)"),
        (changed("conv1.weight", lambda t: t.long()), "1 of another shape or type (conv1.weight)"),
        (changed("conv1.weight", lambda t: t.to_sparse()), "1 of another shape or type (conv1.weight)"),
        (without("fc.weight"), "1 missing (fc.weight)"),
        (changed("fc.weight", lambda t: t.flatten()), "1 of another shape or type (fc.weight)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_what_does_not_fit_is_named(save, change, message):
    state = dict(trained().state_dict())
    change(state)
    said = refusal(save(state))
    assert "fits neither resnet8 nor another network of this benchmark" in said
    assert said.endswith(message)


def test_weights_of_no_known_network(save):
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).state_dict()
    assert " missing (bn1.bias, bn1.num_batches_tracked, …)" in refusal(save(state))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(save, bad):
    state = trained().state_dict()
    state["layer2.0.bn1.running_var"][3] = bad
    message = refusal(save(state))
    assert "'layer2.0.bn1.running_var' holds values that are not finite" in message


def test_content_hash_against_a_plain_digest():
    state = {"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor(3)}
    digest = hashlib.sha256()
    digest.update(b'["a", "torch.int64", []]' + struct.pack("<q", 3))
    digest.update(b'["b", "torch.float32", [1, 2]]' + struct.pack("<2f", 1.0, -2.0))
    assert content_hash(state) == digest.hexdigest()


def test_content_hash_sees_every_difference_and_no_other():
    state = trained().state_dict()
    own = content_hash(state)
    assert content_hash(dict(reversed(state.items()))) == own
    assert content_hash({k: v.clone(memory_format=torch.preserve_format) for k, v in state.items()}) == own
    layout = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in state.items()}
    assert content_hash(layout) == own

    weight = state["conv1.weight"]
    flipped = weight.clone()
    flipped.view(-1)[5] = torch.nextafter(flipped.view(-1)[5], torch.tensor(9.0))
    for other in (flipped, weight.double(), weight.flatten(), weight.transpose(2, 3)):
        assert content_hash(state | {"conv1.weight": other}) != own
    assert content_hash({k + "x" if k == "conv1.weight" else k: v for k, v in state.items()}) != own


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_content_hash_and_loading_are_the_same_on_a_gpu(save):
    source = trained().cuda()
    assert content_hash(source.state_dict()) == content_hash(trained().state_dict())
    network = build("resnet8", 10).cuda()
    load_foreign(save({"model": source.state_dict()}), network, "resnet8")
    assert content_hash(network.state_dict()) == content_hash(source.state_dict())
    assert all(p.is_cuda for p in network.parameters())
