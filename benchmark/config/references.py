"""The reference methods of every comparison, which `bench` trains beside the chosen methods. No torch here."""

import dataclasses

from benchmark.config.schema import Config

STUDENT_ALONE = "ce"
REFERENCES = {STUDENT_ALONE: "the student alone", "kd": "KD"}  # of Δ, and of the tests of significance


def missing_references(config: Config) -> list[str]:
    """Return the references that the chosen methods lack; none where the config leaves them out, and for the student
    alone, which is compared with nothing."""
    if not config.references or config.methods == [STUDENT_ALONE]:
        return []
    return [name for name in REFERENCES if name not in config.methods]


def with_references(config: Config) -> Config:
    """Return the config with the missing references after the chosen methods."""
    return dataclasses.replace(config, methods=[*config.methods, *missing_references(config)])


def describe_additions(config: Config) -> str:
    """Return a line, with its line break, about the references added to the chosen methods; empty where none are."""
    names = [f"{name} ({REFERENCES[name]})" for name in missing_references(config)]
    return f"added for comparison: {', '.join(names)}; references=false leaves them out\n" if names else ""
