"""Random streams: one per purpose, each derived from the run's seed."""

import contextlib
import hashlib
import json
from collections.abc import Iterator

import torch


def seed_for(purpose: str, *parts: int) -> int:
    """Return a seed from 0 to 2^63 − 1, the same in every process and version: SHA-256 of the purpose and `parts`."""
    text = json.dumps([purpose, *map(int, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(purpose: str, *parts: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device`, seeded with `seed_for(purpose, *parts)`."""
    return torch.Generator(device).manual_seed(seed_for(purpose, *parts))


@contextlib.contextmanager
def seeded(purpose: str, seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator while modules are built, and restore its state afterwards.

    Modules are built on the CPU and then moved, so that initial weights are the same on every device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(purpose, seed))
        yield
