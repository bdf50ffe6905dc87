"""Seeds of random streams, and seeded building of modules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmark.training.seeding import generator, seed_for, seeded


def test_seeds_are_those_of_earlier_versions():
    assert seed_for("order", 0, 1) == 6948624756589500242
    assert seed_for("method", 7) == 8481100775424865864
    assert generator("method", 7).initial_seed() == seed_for("method", 7)


streams = st.tuples(
    st.sampled_from(["order", "views", "method"]), st.lists(st.integers(-1000, 1000), max_size=3).map(tuple)
)


@given(streams, streams)
def test_seeds_differ_by_purpose_and_parts(a, b):
    seeds = [seed_for(purpose, *parts) for purpose, parts in (a, b)]
    assert (seeds[0] == seeds[1]) == (a == b)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_modules_follow_purpose_and_seed_and_the_global_state_is_restored():
    before, weights = torch.get_rng_state(), []
    for purpose, seed in (("network", 1), ("network", 1), ("network", 2), ("method", 1)):
        with seeded(purpose, seed):
            weights.append(nn.Linear(4, 4).weight.detach())
    with pytest.raises(ZeroDivisionError), seeded("network", 1):
        raise ZeroDivisionError
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    assert torch.equal(torch.get_rng_state(), before)
