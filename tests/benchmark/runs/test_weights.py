"""Tests of the files of weights: complete or rejected, and a content hash that depends on the content alone."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.runs.folder import RunFolder
from benchmark.runs.weights import DamagedFile, content_hash, load_weights, save, save_outputs

STATE = {"weight": torch.arange(24.0).reshape(2, 3, 2, 2), "steps": torch.tensor(7)}


def test_saved_weights_are_loaded_exactly(tmp_path):
    save(tmp_path / "weights.pt", STATE)
    loaded = load_weights(tmp_path / "weights.pt")
    assert loaded.keys() == STATE.keys() and all(torch.equal(loaded[k], STATE[k]) for k in STATE)


def test_other_files_are_damaged(tmp_path):
    path = tmp_path / "weights.pt"
    with pytest.raises(DamagedFile, match=r"weights\.pt cannot be read: No such file"):
        load_weights(path)
    os.mkfifo(path)
    with pytest.raises(DamagedFile, match=r"weights\.pt cannot be read: it is not a regular file"):
        load_weights(path)
    path.unlink()
    save(path, [1, 2])
    with pytest.raises(DamagedFile):
        load_weights(path)  # not a dictionary


@given(st.data())
def test_any_change_of_a_weight_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    save(path, STATE)
    content = bytearray(path.read_bytes())
    start = content.index(STATE["weight"].numpy().tobytes())
    content[start + data.draw(st.integers(0, 95))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        load_weights(path)


def test_the_content_hash_ignores_memory_layout_and_order_and_nothing_else():
    channels_last = STATE["weight"].to(memory_format=torch.channels_last)
    assert content_hash({"steps": STATE["steps"], "weight": channels_last}) == content_hash(STATE)
    different = [
        {**STATE, "steps": torch.tensor(8)},
        {**STATE, "steps": torch.tensor(7, dtype=torch.int32)},
        {**STATE, "weight": STATE["weight"].reshape(3, 2, 2, 2)},
        {"weights": STATE["weight"], "steps": STATE["steps"]},
    ]
    assert len({content_hash(state) for state in [STATE, *different]}) == 5


def test_the_content_hash_of_a_state_never_changes():
    # sha256 of ["steps", "torch.int64", []], 7 as 8 bytes, ["weight", "torch.float32", [2, 3, 2, 2]], 24 floats
    assert content_hash(STATE) == "500aee59e006e3396945aba7a325a3d8be125cda6fe8e7bfd18bd3d46a71c78a"


def test_test_outputs_hold_logits_labels_and_class_names(tmp_path):
    folder = RunFolder(tmp_path)
    save_outputs(folder, STATE, torch.ones(3, 2), torch.tensor([0, 1, 1]), ["cat", "dog"])
    with np.load(folder.test_outputs) as outputs:
        assert outputs["logits"].dtype == np.float32 and outputs["logits"].shape == (3, 2)
        assert outputs["labels"].dtype == np.int64 and outputs["labels"].tolist() == [0, 1, 1]
        assert outputs["class_names"].tolist() == ["cat", "dog"]
    assert content_hash(load_weights(folder.weights)) == content_hash(STATE)
