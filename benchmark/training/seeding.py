"""Seeds: one random stream per purpose, each derived from the run's seed alone."""

import contextlib
import hashlib
import json
from collections.abc import Iterator

import torch


def seed_for(purpose: str, *parts: int) -> int:
    """A seed from 0 to 2^63 − 1 that is the same in every process and version: SHA-256 of the purpose and `parts`."""
    text = json.dumps([purpose, *map(int, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(purpose: str, *parts: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` seeded with `seed_for(purpose, *parts)`."""
    return torch.Generator(device).manual_seed(seed_for(purpose, *parts))


@contextlib.contextmanager
def seeded(purpose: str, seed: int) -> Iterator[None]:
    """Seeds torch's global CPU generator while modules are built, and puts its state back afterwards.

    Modules are built on the CPU and moved, so that they start alike on every device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(purpose, seed))
        yield
