"""Networks of timm, whose names hold a slash, through a whole command: runs, folders, tables and filters."""

import json

from benchmark.grid.precision import earlier_precisions
from benchmark.runs.folder import RunFolder, folder_name, location
from tests.helpers import bench, plan_of

PAIR = "timm/test_resnet-timm/test_resnet.r160_in1k"


def overrides_of(tiny):
    return [*(w for w in tiny if not w.startswith("pair=")), f"pair={PAIR}", "methods=ce,kd", "recipe.epochs=1"]


def test_a_command_trains_finds_again_and_tabulates_networks_of_timm(tiny, tmp_path, command):
    overrides = overrides_of(tiny)
    plan, outcomes = bench(overrides)
    assert [o.status for o in outcomes] == ["done"] * 2
    assert plan.teachers["timm/test_resnet"].folder.done
    places = {location(path.parent)[1:3] for path in (tmp_path / "runs").rglob("result.json")}
    assert places == {("teachers", "timm/test_resnet"), (PAIR, "kd"), (PAIR.split("-")[1], "ce")}
    assert all(
        "+" in path.parent.parts[-4] + path.parent.parts[-3] for path in (tmp_path / "runs").rglob("result.json")
    )
    assert "0 to train, 3 done" in plan_of(overrides).text()
    place = [f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}"]
    result = command("analysis", "table", *place, f"pair={PAIR}")
    assert result.returncode == 0, result.stderr
    assert PAIR in result.stdout and "KD" in result.stdout and "not finished" not in result.stderr
    dropped = command("analysis", "drop", place[0], f"pair={PAIR}", "method=kd")
    assert dropped.returncode == 0, dropped.stderr
    assert not list((tmp_path / "runs" / "tiny").glob("*/kd/*/*/result.json"))


def test_names_of_folders_and_back(tmp_path):
    assert folder_name("timm/resnet18.a1_in1k") == "timm+resnet18.a1_in1k"
    folder = tmp_path / "d" / folder_name(PAIR) / "kd" / "0123456789ab" / "seed=0"
    assert location(folder) == ("d", PAIR, "kd", "0123456789ab", "seed=0")
    assert RunFolder(folder).status is None
    teacher = tmp_path / "d" / "teachers" / folder_name("timm/resnet18.a1_in1k") / "0123456789ab" / "imported"
    assert location(teacher)[1:3] == ("teachers", "timm/resnet18.a1_in1k")
    combination = folder.parents[2] / "kd+crd" / "0123456789ab" / "seed=0"
    assert location(combination)[1:3] == (PAIR, "kd+crd")
    assert location(tmp_path / "d" / "timm+resnet18" / "ce" / "0" / "seed=0")[1:3] == ("timm/resnet18", "ce")


def test_automatic_precision_follows_the_earlier_runs_of_a_network_of_timm(tmp_path):
    config = {"role": "teacher", "dataset": {"name": "d"}, "network": "timm/resnet18", "precision": "bf16"}
    path = tmp_path / "d" / "teachers" / "timm+resnet18" / "0123456789ab" / "seed=0"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(json.dumps(config))
    (path / "status.json").write_text('{"status": "done"}')
    rest = {key: value for key, value in config.items() if key != "precision"}
    assert earlier_precisions(tmp_path, "timm/resnet18", rest) == {"bf16": 1}
