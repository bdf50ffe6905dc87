"""Build typed options from plain values: types by OmegaConf, limits by `methods.options`. Errors are one line."""

from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.errors import UserError, nearest
from methods.options import violations

NOISE = ("object_type=", "reference_type=", "Config search path", "provider=")  # beginnings of lines of messages
Schema = TypeVar("Schema")


def build(schema: type[Schema], values: DictConfig, prefix: str = "") -> Schema:
    """Return an instance of a schema. prefix: of the option names in errors, such as `kd.`

    Raises UserError for a value of another type or outside the limits of its option.
    """
    try:
        OmegaConf.set_struct(values, False)
        options: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except (OmegaConfBaseException, OverflowError) as e:
        raise UserError(one_line(e).replace("key ", f"key {prefix}", 1)) from e
    check_limits(options, prefix)
    return options


def check_limits(options: Any, prefix: str = "") -> None:
    """Raise UserError for the first value, elements of lists included, that is outside the limits of its option."""
    for name, value, choices, reason in violations(options, prefix):
        if value == "":
            raise UserError(f"{name} is empty: give a value, or leave {name}= out")
        if choices:
            raise UserError(f"{name} cannot be {value!r}{nearest(str(value), choices)}")
        raise UserError(f"{name} is {value}: {reason}")


def one_line(e: BaseException) -> str:
    """Return the message of an OmegaConf or Hydra error as one line, without its noise."""
    lines = [s for s in map(str.strip, str(e).splitlines()) if s and not s.startswith(NOISE)]
    return "; ".join(lines).replace("full_key: ", "key ")
