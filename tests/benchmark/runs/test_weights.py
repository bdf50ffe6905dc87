"""Weight files of runs: damage is noticed, and the content hash depends on names, types, shapes and values alone."""

import hashlib
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.networks import build
from benchmark.runs import weights
from benchmark.runs.weights import DamagedFile, content_hash, load_weights

STATE = {"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor(3)}


def test_weights_are_read_back_and_no_temporary_file_is_left(tmp_path):
    weights.save(tmp_path / "weights.pt", STATE)
    state = load_weights(tmp_path / "weights.pt")
    assert state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_an_overwritten_byte_is_noticed_or_harmless(tmp_path):
    """torch.load itself reads a damaged weight as a number."""
    path, noticed = tmp_path / "weights.pt", 0
    network = build("resnet8", 10)
    weights.save(path, network.state_dict())
    content, expected = path.read_bytes(), content_hash(network.state_dict())
    for position in range(0, len(content), len(content) // 100):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            state = load_weights(path)
        except DamagedFile as error:
            noticed += 1
            assert str(error) == f"{path} is damaged"
        else:  # a byte without meaning, such as padding
            assert content_hash(state) == expected
    assert noticed > 60


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04 not a zip", torch.zeros(2)])
def test_another_file_is_damaged(tmp_path, content):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(DamagedFile):
        load_weights(path)


def test_the_content_hash_is_a_plain_digest():
    digest = hashlib.sha256()
    digest.update(b'["a", "torch.int64", []]' + struct.pack("<q", 3))
    digest.update(b'["b", "torch.float32", [1, 2]]' + struct.pack("<2f", 1.0, -2.0))
    assert content_hash(STATE) == digest.hexdigest()


def test_the_content_hash_ignores_the_order_of_keys_and_the_memory_layout():
    state = {**STATE, "conv": torch.arange(24.0).reshape(2, 3, 2, 2)}
    assert content_hash(dict(reversed(state.items()))) == content_hash(state)
    layout = state | {"conv": state["conv"].contiguous(memory_format=torch.channels_last)}
    assert content_hash(layout) == content_hash(state)


@given(st.integers(0, 23), st.integers(0, 31))
def test_the_content_hash_depends_on_every_bit(position, bit):
    tensor = torch.arange(24, dtype=torch.int32)
    changed = tensor.clone()
    changed[position] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    assert content_hash({"a": tensor}) != content_hash({"a": changed})
    assert content_hash({"a": tensor.view(torch.float32)}) != content_hash({"a": changed.view(torch.float32)})


def test_the_content_hash_depends_on_name_type_and_shape():
    tensor = torch.zeros(2, 2)
    variants = [{"a": tensor}, {"b": tensor}, {"a": tensor.double()}, {"a": tensor.flatten()}, {"a": tensor.int()}]
    assert len({content_hash(state) for state in variants}) == len(variants)
