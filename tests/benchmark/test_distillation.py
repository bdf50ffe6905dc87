"""A user's own networks: from Python by `distill`, and on the command line by `network.<name>=`."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmark.config import own_networks
from benchmark.distillation import distill
from benchmark.errors import UserError
from benchmark.networks import custom
from tests.benchmark.own_networks import Patches
from tests.conftest import ROOT
from tests.helpers import bench, plan_of, student_runs

FUNCTIONS = "tests.benchmark.own_networks"
TAPS = {
    "stages": ["embed", "mix"], "teacher_stages": ["embed", "mix"], "classifier": "out", "teacher_classifier": "out",
}  # fmt: skip


PAGE = (ROOT / "docs" / "own-network.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]


@pytest.fixture(autouse=True)
def networks_of_a_test(monkeypatch):
    """Forget the networks that a test has named."""
    monkeypatch.setattr(custom, "_NETWORKS", {})


def examples(n, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 100, (n, 3, 16, 16), generator=generator)
    images[torch.arange(n), labels % 3] += 60 + 60 * (labels[:, None, None] == 3)
    return (images.to(torch.uint8) if dtype == torch.uint8 else images / 255), labels


def networks_of(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Patches(4), Patches(4, width=32)


@pytest.fixture
def place(tmp_path):
    more = ["recipe.batch_size=16", "teacher.min_top1=0", "device=cpu", "threads=1", "precision=fp32"]
    return {"overrides": [f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}", *more], "epochs": 2}


def test_a_student_is_trained_in_place_and_the_same_call_finds_the_run(place, tmp_path):
    (student, teacher), (again, _) = networks_of(), networks_of()
    before, frozen = student.out.weight.clone(), teacher.out.weight.clone()
    record = distill(student, teacher, examples(64), examples(32), method="kd", **place)
    assert (record.method, record.pair, record.epochs) == ("kd", "teacher-student", 2)
    assert record.teacher_top1 is not None and 0 <= record.top1_last <= 100
    assert not torch.equal(student.out.weight, before) and torch.equal(teacher.out.weight, frozen)
    with torch.no_grad():
        images, labels = examples(32)
        mean, std = (v[:, None, None] for v in statistics(examples(64)[0]))
        top1 = 100 * (student.eval()((images / 255 - mean) / std).argmax(1) == labels).float().mean().item()
    assert top1 == pytest.approx(record.top1_last, abs=4)  # the suite rounds mean and std to four decimals
    assert distill(again, teacher, examples(64), examples(32), method="kd", **place) == record
    assert torch.equal(again.out.weight, student.out.weight)
    assert len(list((tmp_path / "runs").rglob("seed=0/result.json"))) == 1


def test_a_network_is_trained_alone_without_a_teacher(place):
    student, _ = networks_of()
    record = distill(student, None, examples(64), examples(32), method="ce", **place)
    assert (record.method, record.teacher_top1) == ("ce", None)
    with pytest.raises(UserError, match="kd needs a teacher: give a network, not None"):
        distill(student, None, examples(64), examples(32), method="kd", **place)


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    notebook = json.loads((ROOT / "docs" / "distill.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(cells)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    alone, distilled = map(float, re.findall(r"(?:alone|distilled): (\d+\.\d) %", process.stdout))
    assert 50 < alone < distilled <= 100
    assert not any(cell.get("outputs") for cell in notebook["cells"])  # a stored output would go stale


def statistics(images):
    return (images / 255).mean((0, 2, 3)), (images / 255).std((0, 2, 3))


def test_other_initial_weights_are_another_run(place, tmp_path):
    for seed in (0, 1):
        distill(*networks_of(seed), examples(64), examples(32), method="kd", **place)
    assert len(list((tmp_path / "runs").rglob("seed=0/result.json"))) == 2


@pytest.mark.parametrize("method", ["fitnet", "crd"])
def test_methods_that_read_features_use_the_named_modules(place, method):
    options = {"crd": ["crd.negatives=8"], "fitnet": ["fitnet.hint_layer=1"]}[method]
    place["overrides"] += options
    train = DataLoader(TensorDataset(*examples(64, torch.float32)), batch_size=10)
    record = distill(*networks_of(), train, TensorDataset(*examples(32, torch.float32)), method=method, **place, **TAPS)
    assert record.method == method and record.extra_parameters > 0


def test_a_method_that_reads_what_is_not_named_is_unsupported(place):
    with pytest.raises(UserError, match="stage maps, which one of the networks does not provide"):
        distill(*networks_of(), examples(64), examples(32), method="at", **place)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classifier": "head"}, "has no module 'head'; its first level: embed, mix, out"),
        ({"classifier": "mix"}, "is no nn.Linear"),
        ({"names": ("a-b", "student")}, "cannot name a network"),
        ({"names": ("resnet8", "student")}, "resnet8 is a network of this suite"),
        ({"names": ("teachers", "student")}, "a folder of the runs has this name"),
        ({"method": "kdd"}, "unknown method 'kdd'"),
        ({"overrides": ["precision=auto"]}, "give precision=fp32 or bf16"),
        ({"overrides": ["dataset.validation=0.1"]}, "give the validation images as test"),
    ],
)
def test_mistakes_are_one_line(place, more, message):
    with pytest.raises(UserError, match=message):
        distill(*networks_of(), examples(64), examples(32), **{**place, **more})


def test_images_of_another_form_are_one_line(place):
    gray = examples(64)[0][:, :1], examples(64)[1]
    with pytest.raises(UserError, match=r"expected \[N, 3, H, H\]"):
        distill(*networks_of(), gray, examples(32), **place)
    for data, message in (
        (7, "train is int: give"), ([], "train holds no images"), ([images_of_pil()], "images must be tensors"),
        ([3], "expected pairs of image and label"), ((examples(64)[0], examples(60)[1]), "and 60 labels: expected"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as error:
            distill(*networks_of(), data, examples(32), **place)
        assert "\n" not in str(error.value)


def images_of_pil():
    return object(), 0


def test_a_method_without_a_teacher_trains_the_student_alone(place):
    record = distill(*networks_of(), examples(64), examples(32), method="ce", **place)
    assert (record.method, record.teacher, record.pair) == ("ce", None, None)


def test_views_of_strong_augmentation_need_uint8(place):
    floats = examples(64, torch.float32), examples(32, torch.float32)
    with pytest.raises(UserError, match="crld reads strongly augmented views, which need uint8 images"):
        distill(*networks_of(), *floats, method="crld", **place)


@pytest.mark.parametrize("form", ["tensors", "dataset", "loader"])
def test_all_forms_of_data_are_the_same_run(place, form, tmp_path):
    (student, teacher), data = networks_of(), [examples(64), examples(32)]
    first = distill(*networks_of(), *data, **place)
    if form != "tensors":
        data = [TensorDataset(*part) for part in data]
    if form == "loader":
        data = [DataLoader(part, batch_size=10) for part in data]
    assert distill(student, teacher, *data, **place) == first


def in_the_folder(tmp_path, *words):
    """Run Python in a folder that holds the page's my_networks.py, as a user does."""
    (code,) = [text for language, text in BLOCKS if language == "python" and "# my_networks.py" in text]
    (tmp_path / "my_networks.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_train(line, tiny, tmp_path):
    name, command, *words = shlex.split(line)
    assert name == "kd-benchmark" and len(COMMANDS) == 3
    rest = [w for w in tiny if not w.startswith("pair=")]
    in_the_folder(tmp_path, "-m", "benchmark", command, *rest, *words, "recipe.epochs=1")
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("result.json")]
    methods = next(w for w in words if w.startswith("methods=")).removeprefix("methods=").split(",")
    assert sorted(r["method"] for r in results if r["role"] == "student") == sorted(methods)
    assert all(r["network"] == "mine" for r in results if r["role"] == "student")


def test_the_python_of_the_page_returns_the_record(tmp_path):
    (code,) = [text for language, text in BLOCKS if language == "python" and "distill(" in text]
    assert len([line for line in code.splitlines() if line]) < 15
    words = '["teacher.min_top1=0", "device=cpu", "threads=1"]'
    (tmp_path / "run.py").write_text(code.replace('["teacher.min_top1=0"]', words))
    printed = in_the_folder(tmp_path, "run.py").split()
    (path,) = tmp_path.rglob("runs/custom/teacher-student/kd/*/seed=0/result.json")
    result = json.loads(path.read_text())
    assert [float(n) for n in printed[-2:]] == [result["top1_last"], result["teacher_top1"]]


def test_networks_of_a_yaml(monkeypatch):
    yaml = {"mine": f"{FUNCTIONS}:patches", "big": {"function": f"{FUNCTIONS}:wide_patches", "stages": ["embed"]}}
    merged = own_networks.merge(yaml, {"big": {"classifier": "out"}, "new": {"function": "a:b"}})
    assert merged == {
        "mine": {"function": f"{FUNCTIONS}:patches"}, "new": {"function": "a:b"},
        "big": {"function": f"{FUNCTIONS}:wide_patches", "stages": ["embed"], "classifier": "out"},
    }  # fmt: skip
    for value, message in (
        (3, "is 3: write package.module:function"),
        ({"stages": []}, "names no function"),
        ({"function": "a:b", "stages": "embed"}, "write a list of modules"),
        ({"function": "a:b", "classifier": 2}, "write the path of a linear layer"),
        ({"function": "a:b", "stage": ["embed"]}, "has no 'stage'; did you mean stages"),
    ):
        with pytest.raises(UserError, match=message):
            own_networks.merge({"mine": value}, {})


def test_a_file_that_changes_after_planning_is_refused():
    function = f"{FUNCTIONS}:patches"
    planned = custom.from_function("mine", function).identity()
    custom.add_all({"mine": planned})
    assert custom.find("mine").function == function
    with pytest.raises(UserError, match=r"the file of .*:patches has changed since the run was planned"):
        custom.add_all({"mine": {**planned, "version": "0" * 12}})
    with pytest.raises(UserError, match="was given to `distill` as an object"):
        custom.add_all({"other": {**planned, "function": ""}})


def test_own_networks_on_the_command_line(tiny):
    words = [
        *(w for w in tiny if not w.startswith("pair=")), "pair=big-small", f"network.big={FUNCTIONS}:wide_patches",
        f"network.small={FUNCTIONS}:patches", "methods=ce,kd,fitnet,at", "recipe.epochs=1", "fitnet.hint_layer=1",
        *(f"network.{name}.stages=[embed,mix]" for name in ("big", "small")),
    ]  # fmt: skip
    plan, outcomes = bench(words)
    assert {o.status for o in outcomes} == {"done"} and len(outcomes) == 4
    run = student_runs(plan)["kd"]
    assert run.config["networks"]["small"]["stages"] == ["embed", "mix"]
    assert set(run.config["networks"]) == {"big", "small"} and "0 to train, 5 done" in plan_of(words).text()
    with pytest.raises(UserError, match="which this network does not provide"):
        plan_of([*(w for w in words if not w.startswith(("methods=", "fitnet."))), "methods=crd"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("network.mine=nowhere:build", "nowhere cannot be imported"),
        (f"network.mine={FUNCTIONS}:absent", "has no function absent"),
        (f"network.mine={FUNCTIONS}", "write package.module:function"),
        ("network.mine.stages=[a]", "names no function"),
        (f"network.resnet8={FUNCTIONS}:patches", "resnet8 is a network of this suite"),
        (f"network.mine={FUNCTIONS}:no_module", "must return an nn.Module, not Tensor"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tiny, word, message):
    with pytest.raises(UserError, match=message):
        plan_of([*tiny, word, "pair=resnet8-mine", "methods=kd"])
