"""The network of CONTRIBUTING.md: it takes its class and one entry in the registry to train it."""

import itertools
import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark import networks
from benchmark.networks.base import Network
from tests.conftest import ROOT
from tests.helpers import bench, student_runs


def test_the_documented_network_trains_as_a_student_and_as_a_teacher(tiny, monkeypatch):
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a network")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {"itertools": itertools, "nn": nn, "Tensor": Tensor, "F": functional, "Network": Network}
    exec(code, names)
    key, value = re.search(r"`\"(\w+)\": (\w+)`", section).groups()
    monkeypatch.setitem(networks._FIXED_NETWORKS, key, names[value])
    monkeypatch.setitem(networks._FIXED_BY_SPELLING, key.lower(), key)
    assert networks.output_shapes("PlainNet", 6, 16).stages == ((32, 16, 16), (64, 8, 8), (128, 4, 4))
    for pair, method in (("resnet14-PlainNet", "fitnet"), ("PlainNet-resnet8", "simkd")):
        words = [*tiny, f"pair={pair}", f"methods={method}", "recipe.epochs=1"]
        plan, outcomes = bench(words)
        assert [o.status for o in outcomes] == ["done"], outcomes
        assert student_runs(plan)[method].folder.record.top1_last is not None
    assert not torch.isnan(networks.build("PlainNet", 6)(torch.zeros(1, 3, 16, 16)).logits).any()
