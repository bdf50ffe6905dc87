"""The validation split on which `ablate` and `tune` choose settings."""

from collections.abc import Sequence

from benchmark.config.schema import Config

VALIDATION = 0.1  # share of the training images that is held out where the config holds out none


def hold_out_validation(config: Config, words: Sequence[str]) -> list[str]:
    """Set a validation split in `config` where it has none, and print so; return the overrides behind the config."""
    if config.dataset.validation > 0:
        return list(words)
    config.dataset.validation = VALIDATION
    print(f"dataset.validation is set to {VALIDATION}: settings are chosen on that share of the training images")
    return [*words, f"dataset.validation={VALIDATION}"]
