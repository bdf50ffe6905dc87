"""The files of an ablation: its manifest for the tables, and a W&B sweep over the same grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmark.commands.ablation_plan import Ablation, AblationPlan, PlannedSetting
from benchmark.config.overrides import key_of
from benchmark.config.schema import Config
from benchmark.runs import folder

FOLDER = "ablations"
SWEEP_HEAD = """\
# The ablation as a W&B sweep: `wandb sweep <this file>`, then `wandb agent <id>`, both in the folder it was written in
# and with its environment active. The teacher must be trained; finished runs are skipped. Then the command that wrote
# this file trains the missing runs and makes the tables.
"""


def file_stem(ablation: Ablation, config: Config) -> str:
    """Return the stem of an ablation's files: <dataset>-<profile>-<pair>-<grid>."""
    return folder.file_name(config.dataset.name, config.profile, ablation.pair, ablation.grid.name)


def manifest(ablation: Ablation, config: Config, images: int) -> dict[str, Any]:
    """Return what belongs to an ablation, with run folders relative to <runs>; its teacher must be trained.

    settings and references: label, method, options (as given), values (of all options that the grid varies), terms,
    runs (folder by seed), impossible (why it cannot be trained, or null).
    axes: by option its values and whether it is drawn on a log scale. images: size of the validation split.
    """
    default = next(s for s in ablation.settings if s.setting.label == ablation.default)
    return {
        "name": file_stem(ablation, config),
        "grid": ablation.grid.name,
        "description": ablation.grid.description,
        "dataset": config.dataset.name,
        "profile": config.profile,
        "pair": ablation.pair,
        "method": ablation.grid.method,
        "title": default.method.about["title"],
        "epochs": config.recipe.epochs,
        "validation": config.dataset.validation,
        "validation_images": images,
        "seeds": config.seeds,
        "form": ablation.grid.form,
        "axes": {o: {"values": v, "log": ablation.grid.is_log(o, v)} for o, v in ablation.axes.items()},
        "default": ablation.default,
        "settings": [_manifest_row(ablation, s) for s in ablation.settings],
        "references": [_manifest_row(ablation, s) for s in ablation.references],
    }


def _manifest_row(ablation: Ablation, planned: PlannedSetting) -> dict[str, Any]:
    return {
        "label": planned.setting.label,
        "method": planned.setting.method,
        "options": dict(planned.setting.options),
        "values": {o: planned.value(o) for o in ablation.varied_options},
        "terms": planned.setting.terms,
        "runs": {str(r.config["seed"]): r.relative_path for r in planned.runs(ablation.teacher)},
        "impossible": planned.reason,
    }


def sweep(ablation: Ablation, config: Config, words: Sequence[str]) -> dict[str, Any]:
    """Return a W&B sweep over the same settings and seeds, references included; each training run is a W&B run.

    Its command is this one with `setting` and `seeds`, not `bench`: the settings of a grid are no product of options,
    the teacher must not follow a setting's recipe, and `bench` would log its report into the agent's run.
    """
    labels = [s.setting.label for s in ablation.rows if not s.reason]
    return {
        "name": file_stem(ablation, config),
        "description": f"{ablation.grid.method}: {ablation.grid.description}",
        "project": config.tracker.project,
        "program": "benchmark",
        "command": ["${env}", "${interpreter}", "-m", "${program}", "ablate", *words, "${args_no_hyphens}"],
        "method": "grid",
        "metric": {"name": "val_top1", "goal": "maximize"},
        "parameters": {"setting": {"values": labels}, "seeds": {"values": list(config.seeds)}},
    }


def write(plan: AblationPlan, grid_words: Mapping[str, Sequence[str]], words: Sequence[str]) -> list[Path]:
    """Write manifest and sweep of each ablation; return the files. grid_words: those that request each grid."""
    written, config = [], plan.config
    fixed = [w for w in words if key_of(w) not in ("pair", "seeds", "methods", "tracker.mode")]
    assert plan.dataset.val is not None  # the plan holds out a split
    for a in plan.ablations:
        stem = file_stem(a, config)
        written.append(Path(config.runs) / FOLDER / f"{stem}.json")
        folder.write_json(written[-1], manifest(a, config, len(plan.dataset.val.labels)))
        command = [*grid_words[a.grid.name], f"pair={a.pair}", *fixed]
        written.append(Path(config.reports) / FOLDER / f"{stem}-sweep.yaml")
        folder.write_text(written[-1], SWEEP_HEAD + yaml.safe_dump(sweep(a, config, command), sort_keys=False))
    return written
