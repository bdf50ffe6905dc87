"""`pairs`: list the pairs of `conf/pairs` with the learning rates of their students, and the networks."""

from collections.abc import Sequence

from benchmark import networks
from benchmark.config import pairs
from benchmark.config.compose import load_config


def run(words: Sequence[str]) -> int:
    """Print the lists; return the exit status."""
    recipe = load_config(words).recipe
    for name, members in pairs.lists().items():
        print(f"{name} (PAIR={name} runs all of them)")
        for pair in members:
            _, student = networks.split_pair(pair)
            rate = recipe.lr or (recipe.lr_light if networks.is_light(student) else recipe.lr_default)
            print(f"  {pair:<24} student's learning rate {rate:g}")
    print(f"networks (any two make a pair)\n  {' '.join(networks.names())}")
    return 0
