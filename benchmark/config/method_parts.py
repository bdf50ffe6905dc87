"""Compose a method's YAML file from the files of `conf/method/` that its `defaults` name, as Hydra would.

Hydra composes its own configuration along with every file, which takes longer than everything else for the methods of a
large grid. Only the usual form of `defaults` is read here; Hydra composes the other ones and explains mistakes.
"""

import re
from typing import cast

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config import files
from benchmark.errors import UserError

BASE = re.compile(r"(\w+)(?:@(\w+))?")  # an entry of `defaults`: a file of the folder, and the key that it goes below


def compose_part(name: str, above: tuple[str, ...] = ()) -> DictConfig | None:
    """Return the content of `conf/method/<name>.yaml` on top of its defaults, interpolations unresolved.

    above: the files whose defaults lead here. None where the file cannot be read, or where its defaults are more than a
    list of files of this folder with `_self_`. Raises UserError for files that build on each other.
    """
    path = files.CONF / "method" / f"{name}.yaml"
    if name in above:  # in which Hydra would never end
        raise UserError(f"conf/method/{name}.yaml: its defaults lead back to it: {', '.join((*above, name))}")
    try:
        content = OmegaConf.load(path)
        packaged = "@package" in path.read_text(encoding="utf-8")
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, TypeError, RecursionError):
        return None
    if packaged or not isinstance(content, DictConfig):
        return None
    if "defaults" not in content:
        return content
    entries = content.pop("defaults")
    if not isinstance(entries, ListConfig) or "_self_" not in entries:
        return None
    layers = [content if entry == "_self_" else _base(entry, (*above, name)) for entry in entries]
    return None if None in layers else cast(DictConfig, OmegaConf.merge(*cast(list[DictConfig], layers)))


def _base(entry: object, above: tuple[str, ...]) -> DictConfig | None:
    """Return the part that an entry of `defaults` stands for; None where only Hydra can tell."""
    named = BASE.fullmatch(entry) if isinstance(entry, str) else None
    part = compose_part(named[1], above) if named else None
    return part if named is None or part is None or named[2] is None else OmegaConf.create({named[2]: part})
