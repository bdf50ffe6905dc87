"""The command `transfer`: which runs it probes, what it writes, and that it repeats nothing."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from benchmark.__main__ import main
from benchmark.commands import transfer as transfer_command
from benchmark.config import files
from benchmark.config.command_options import load_transfer
from benchmark.errors import UserError
from benchmark.runs.folder import RunFolder
from benchmark.runs.transfer import TransferFolder, transfers
from benchmark.runs.weights import content_hash, load_weights, save
from tests.benchmark.data.layouts import write_imagenet, write_tiny_imagenet
from tests.conftest import write_tiny

QUICK = ["epochs=2", "milestones=[1]", "batch_size=16", "padding=1", "device=cpu", "threads=1"]


@pytest.fixture
def folder(finished, tmp_path, monkeypatch) -> Path:
    """A folder with finished runs of the student alone, of KD and of their teacher; no tables are made."""
    write_tiny(tmp_path / "other.npz", classes=7, train=42, test=28, size=24)
    monkeypatch.setattr(transfer_command, "run_analysis", lambda arguments: 0)
    return tmp_path


def transfer(folder: Path, *words: str) -> int:
    """Run the command with one target, `other`."""
    target = ["to=npz", "target.file=other.npz", "target.name=other", f"data={folder}"]
    return main(["transfer", f"from={folder / 'runs'}", *target, *QUICK, *words])


def probes(folder: Path) -> dict[str, TransferFolder]:
    """Return all probes by the method of their run, `teacher` for the teacher's."""
    runs = [path.parents[2] for path in (folder / "runs").glob("*/*/*/*/*/transfer/*/*")]
    names = {run: "teacher" if run.parts[-4] == "teachers" else run.parts[-3] for run in runs}
    return {names[run]: probe for run in names for probe in transfers(run)}


def content(probe: TransferFolder) -> bytes:
    return (probe.path / "result.json").read_bytes()


def test_students_and_their_teacher_are_probed(folder, capsys):
    assert transfer(folder) == 0
    assert set(probes(folder)) == {"ce", "kd", "teacher"}
    for probe in probes(folder).values():
        run = RunFolder(probe.path.parents[2])
        record, layer = probe.result, load_weights(probe.weights)
        assert (record.target, record.source, record.network) == ("other", "npz", run.record.network)
        assert (record.student_sha256, record.identity) == (run.record.sha256, probe.path.name)
        assert (record.classes, record.train_images, record.test_images, record.epochs) == (7, 42, 28, 2)
        assert layer["weight"].shape == (7, 64) and layer["bias"].shape == (7,)
        config = yaml.safe_load((probe.path / "config.yaml").read_text())
        assert (config["dataset"]["size"], config["dataset"]["padding"], config["dataset"]["flip"]) == (16, 1, True)
        assert config["probe"]["milestones"] == [1] and config["student"]["sha256"] == run.record.sha256
        lines = [json.loads(line) for line in (probe.path / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2] and lines[-1]["test_top1"] == record.top1_last
        assert not list(probe.path.glob("features.*"))
    assert "3 probes: 0 done before, 0 not finished" in capsys.readouterr().out


@pytest.mark.parametrize("write, name", [(write_tiny_imagenet, "tinyimagenet"), (write_imagenet, "imagenet")])
def test_targets_of_image_files_are_read_into_memory(write, name, folder):
    root = write(folder / "images", train=6, val=4)
    words = [f"to={name}", f"target.root={root}", "seeds=0", "method=kd", "teachers=false", *QUICK]
    assert main(["transfer", f"from={folder / 'runs'}", *words]) == 0
    record = probes(folder)["kd"].result
    assert (record.target, record.classes, record.train_images, record.test_images) == (name, 3, 18, 12)
    dataset = yaml.safe_load((probes(folder)["kd"].path / "config.yaml").read_text())["dataset"]
    assert dataset["size"] == 16 and not {"augmentation", "decoder"} & set(dataset)  # those of views in memory


def test_the_same_command_repeats_nothing_and_another_protocol_has_its_own_folder(folder, capsys):
    transfer(folder)
    before = {name: content(probe) for name, probe in probes(folder).items()}
    assert transfer(folder) == 0
    assert "3 probes: 3 done before" in capsys.readouterr().out
    assert {name: content(probe) for name, probe in probes(folder).items()} == before
    assert transfer(folder, "lr=0.1", "method=kd", "teachers=false") == 0
    (run,) = (folder / "runs").glob("npz/*/kd/*/seed=0")
    assert len(list(transfers(run))) == 2


def test_a_student_that_was_trained_again_is_probed_again(folder, capsys):
    transfer(folder)
    (path,) = (folder / "runs").glob("npz/*/kd/*/seed=0")
    run = RunFolder(path)
    weights = {
        name: value + 0.25 if name == "fc.weight" else value for name, value in load_weights(run.weights).items()
    }
    save(run.weights, weights)
    result = {k: v for k, v in json.loads((path / "result.json").read_text()).items() if k != "checksum"}
    (path / "result.json").write_text(json.dumps(result | {"sha256": content_hash(weights)}))
    assert transfer(folder) == 0
    assert "3 probes: 2 done before" in capsys.readouterr().out
    assert probes(folder)["kd"].result.student_sha256 == content_hash(weights)


def test_runs_whose_weights_were_dropped_are_named_and_skipped(folder, capsys):
    (path,) = (folder / "runs").glob("npz/*/kd/*/seed=0")
    (path / "weights.pt").unlink()
    assert transfer(folder) == 0
    assert f"not probed: {path}: it has no weights (weights.pt)" in capsys.readouterr().err
    assert set(probes(folder)) == {"ce"}  # nor is the teacher of no other student probed


def test_changed_weights_fail_with_a_reason_and_the_others_go_on(folder, capsys):
    (path,) = (folder / "runs").glob("npz/*/kd/*/seed=0")
    run = RunFolder(path)
    save(run.weights, {name: value * 2 for name, value in load_weights(run.weights).items()})
    assert transfer(folder) == 1
    output = capsys.readouterr()
    assert "is not what the run has recorded" in output.err and "3 probes: 0 done before, 1 not finished" in output.out
    failed = probes(folder)["kd"]
    assert failed.status == "failed" and (failed.path / "error.txt").is_file()


def test_probes_in_several_processes_have_the_same_result(folder):
    transfer(folder)
    alone = {name: load_weights(probe.weights) for name, probe in probes(folder).items()}
    for probe in probes(folder).values():
        shutil.rmtree(probe.path)
    assert transfer(folder, "jobs=2") == 0
    for name, probe in probes(folder).items():
        layer = load_weights(probe.weights)
        assert all(layer[key].equal(alone[name][key]) for key in layer)


def test_filters_choose_students_and_the_student_alone_stays(folder):
    options = transfer_command.load_transfer([f"from={folder / 'runs'}", "to=digits", "method=kd", "seeds=0-3"])[0]
    assert [run.record.method for run in transfer_command._folders(options)] == ["kd", "ce", None]
    assert transfer_command._arguments(options)[3:] == ["method=kd"]


def test_features_may_be_kept_elsewhere_and_are_removed(folder, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(folder / "scratch"))
    assert transfer(folder, "features_dir=$SCRATCH/features", "method=kd", "teachers=false") == 0
    assert list((folder / "scratch/features").iterdir()) == []


def test_bundled_data_sets_are_targets(folder):
    words = ["to=digits", "target.train_size=60", "target.test_size=1700", "flip=false"]
    assert main(["transfer", f"from={folder / 'runs'}", *words, *QUICK, "teachers=false"]) == 0
    assert {probe.result.target for probe in probes(folder).values()} == {"digits"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "to is empty: name the data sets to transfer to"),
        (["to=stl11"], "unknown target 'stl11'"),
        (["to=digits", "target.sise=32"], "unknown key 'target.sise'; did you mean target.size"),
        (["to=digits", "target.size=64"], "target.size is not a key of its own here: give size=…"),
        (["to=digits", "epoch=2"], "unknown key 'epoch'; did you mean epochs"),
        (["to=digits", "lr=0"], "lr is 0.0: it must be above 0"),
        (["to=digits", "method=dkd", "dataset=cifar100"], "no finished runs with weights"),
        (["to=npz", "target.name=mine"], "dataset=npz needs dataset.file"),
        (["to=npz", "target.name=digits"], "which is a data set of this suite"),
        (["to=digits", "seeds=4-1"], "cannot read 'seeds=4-1'"),
    ],
)
def test_bad_input_is_one_line(folder, words, message, capsys):
    assert main(["transfer", f"from={folder / 'runs'}", *QUICK, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_command_prints_the_table_and_writes_its_files(finished, tmp_path, command):
    write_tiny(tmp_path / "other.npz", classes=7, train=42, test=28, size=24)
    words = [
        f"from={tmp_path / 'runs'}",
        f"data={tmp_path}",
        f"reports={tmp_path / 'reports'}",
        "pair=resnet14-resnet8",
    ]
    target = ["to=npz", "target.file=other.npz", "target.name=other"]
    process = command("benchmark", "transfer", *words, *target, *QUICK)
    assert process.returncode == 0, process.stderr
    lines = re.findall(r"^\| (\w+) ", process.stdout, re.MULTILINE)
    assert lines == ["Method", "Teacher", "Student", "KD"]
    assert (
        "16 px, 2 epochs, not as in CRD's protocol: padding 1, epochs 2, batch_size 16, milestones [1.0]"
        in process.stdout
    )
    assert len(list((tmp_path / "reports/tables").glob("*-transfer.*"))) == 3


def test_an_unreadable_file_of_a_target_is_named(tmp_path, monkeypatch):
    shutil.copytree(files.CONF, tmp_path / "conf")
    monkeypatch.setattr(files, "CONF", tmp_path / "conf")
    (tmp_path / "conf" / "dataset" / "stl10.yaml").write_text("name: [")
    with pytest.raises(UserError, match=r"conf/dataset/stl10.yaml cannot be read: "):
        load_transfer(["to=stl10"])
