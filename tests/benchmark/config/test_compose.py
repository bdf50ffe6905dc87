import csv

import pytest

from analysis import published
from benchmark import networks
from benchmark.config import compose as configs
from benchmark.config import pairs
from benchmark.errors import UserError

PAIR = "wrn40_2-wrn16_2"


def refusal(*overrides: str) -> str:
    """The one line that a bad command gets, whether it is found with the command or with a method."""
    with pytest.raises(UserError) as e:
        config = configs.load(overrides)
        for name in config.methods:
            configs.method(name, PAIR, overrides)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("profile", configs.group("profile"))
@pytest.mark.parametrize("dataset", configs.group("dataset"))
def test_every_profile_composes_with_every_data_set(profile, dataset):
    config = configs.load([f"profile={profile}", f"dataset={dataset}"])
    assert (config.profile, config.dataset.name) == (profile, dataset)


@pytest.mark.parametrize("name", configs.group("method"))
@pytest.mark.parametrize("pair", [PAIR, "resnet56-resnet20"])
def test_every_method_composes(name, pair):
    found = configs.method(name, pair, [])
    assert found.name == name
    assert {"title", "year", "family"} <= set(found.about)


@pytest.mark.parametrize("name", configs.group("recipe"))
@pytest.mark.parametrize("tracker", configs.group("tracker"))
def test_every_recipe_and_tracker_composes(name, tracker):
    assert configs.load([f"recipe={name}", f"tracker={tracker}"]).recipe.batch_size >= 2


def test_the_paper_profile_is_the_published_recipe():
    config = configs.load(["profile=paper"])
    r = config.recipe
    assert (config.dataset.name, config.seeds, config.precision) == ("cifar100", [0, 1, 2], "fp32")
    assert (r.epochs, r.batch_size, r.momentum, r.nesterov, r.weight_decay) == (240, 64, 0.9, False, 5e-4)
    assert (r.milestones, r.gamma, r.lr_default, r.lr_light) == ([150.0, 180.0, 210.0], 0.1, 0.05, 0.01)
    assert (config.dataset.padding, config.dataset.flip) == (4, True)
    assert config.dataset.mean == [0.5071, 0.4867, 0.4408] and config.dataset.std == [0.2675, 0.2565, 0.2761]


def test_the_schedule_and_the_warm_ups_scale_with_the_epochs():
    short = configs.load(["profile=short"])
    assert (short.recipe.epochs, short.recipe.milestones) == (20, [12.5, 15.0, 17.5])
    warmup = lambda *o: configs.method("dkd", PAIR, o).options.warmup  # noqa: E731
    assert warmup("profile=paper") == 20.0
    assert warmup("profile=short") == pytest.approx(20 * 20 / 240)
    assert warmup("profile=short", "dkd.warmup=3") == 3.0


def test_a_command_line_wins_over_the_profile_which_wins_over_the_defaults():
    config = configs.load(["profile=paper", "seeds=5", "dataset=cifar10", "recipe.epochs=12"])
    assert (config.seeds, config.dataset.name, config.recipe.epochs) == ([5], "cifar10", 12)


def test_options_of_a_method_pair_then_command_line():
    beta = lambda pair, *o: configs.method("dkd", pair, o).options.beta  # noqa: E731
    assert beta("resnet56-resnet20") == 2.0
    assert beta("resnet56-resnet20", "dkd.beta=3") == 3.0
    assert beta("resnet56-resnet20", "method.beta=3") == 3.0
    assert beta("resnet56-resnet20", "kd.temperature=2") == 2.0
    assert beta("resnet8-resnet8") == 8.0


def test_options_that_are_not_as_usual_are_known():
    usual = configs.method("clkd", "resnet20-resnet8", ["dataset=digits", "recipe.lr=0.1", "kd.temperature=2"])
    assert usual.changed == [] and usual.options.nu != 0.4  # scaled for the data set
    given = configs.method("crd_kd", "", ["crd_kd.kd.temperature=2", "crd_kd.crd.negatives=16384"])
    assert given.changed == ["kd.temperature"]
    assert configs.changed(usual, {"nu": 0.0}).changed == ["nu"]


def test_lists_are_read_with_and_without_brackets():
    for seeds in ("0,1", "[0,1]"):
        assert configs.load([f"seeds={seeds}", "methods=kd,ce"]).seeds == [0, 1]
    assert len(configs.load(["pair=classic"]).pair) == 13
    for chosen in ("all", "all,kd"):
        assert configs.load([f"methods={chosen}"]).methods == configs.group("method")
    assert configs.load(["methods=[ 'kd', ce ]"]).methods == ["kd", "ce"]


def test_the_lists_of_pairs_are_those_with_published_results():
    with open(published.FILE, newline="") as f:
        found = {f"{r['teacher']}-{r['student']}" for r in csv.DictReader(f) if r["dataset"] == "cifar100"}
    listed = [p for members in pairs.lists().values() for p in members]
    assert [f"{t}-{s}" for t, s in map(networks.split_pair, listed)] == listed  # known, and in their usual names
    assert len(set(listed)) == len(listed)
    assert set(listed) == {p for p in found if not p.endswith("ShuffleV2_1.5")}  # a network that is not among ours


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("recipe.epoch=3", "unknown key 'recipe.epoch'; did you mean recipe.epochs"),
        ("recipee.epochs=3", "did you mean recipe.epochs"),
        ("profile=papr", "unknown profile 'papr'; did you mean paper"),
        ("dataset=cifar", "did you mean cifar10"),
        ("recipe=cifra", "unknown recipe 'cifra'; did you mean cifar"),
        ("methods=kdd", "unknown method 'kdd'; did you mean"),
        ("methods=all,kdd", "unknown method 'kdd'; did you mean"),
        (f"recipe.lr=1{'0' * 400}", "int too large to convert to float"),
        ("dataset.size=100000", "dataset.size is 100000: it must be at most 1024"),
        ("methods=kd,kd", "names something twice"),
        ("methods=[]", "methods is empty"),
        ("seeds=a", "seeds"),
        ("seeds=1.5", "seeds"),
        ("seeds=-1", "at least 0"),
        ("kd.temperature=0", "kd.temperature is 0.0: it must be above 0"),
        ("kd.temperature=hot", "kd.temperature"),
        ("dkd.beta=-1", "dkd.beta is -1.0: it must be at least 0"),
        ("dkd.bta=1", "dkd has no option 'bta'; did you mean beta"),
        ("kd.kd_weight=inf", "finite"),
        ("kd.kd_weight=nan", "finite"),
        ("clkd.cc_shape=klass", "clkd.cc_shape cannot be 'klass'; did you mean class"),
        ("clkd_a1.mu=0", "clkd_a1 is not among the methods"),
        ("recipe.batch_size=1", "recipe.batch_size is 1: it must be at least 2"),
        ("recipe.batch_size=many", "recipe.batch_size"),
        ("recipe.epochs=0", "at least 1"),
        ("recipe.lr=0", "recipe.lr is 0.0: it must be above 0"),
        ("precision=fp8", "precision cannot be 'fp8'"),
        ("device=gpu", "device cannot be 'gpu'"),
        ("tracker.mode=on", "tracker.mode cannot be 'on'; did you mean online"),
        ("dataset.validation=1", "dataset.validation"),
        ("teacher.min_top1=101", "teacher.min_top1 is 101.0: it must be at most 100"),
        ("recipe.epochs=3,4", "recipe.epochs takes one value"),
        ("recipe.epochs", "is not an override"),
        ("recipe.epochs=[", "cannot read 'recipe.epochs=['"),
        ("method=kd", "methods=kd"),
        ("methods=[[kd]]", "cannot read 'methods=[[kd]]': write names with commas between, as in methods=kd,clkd"),
        ("methods={a:1}", "as in methods=kd,clkd"),
        ("seeds=range(3)", "as in seeds=0,1,2"),
        ("pair=[[a]]", "as in pair=wrn40_2-wrn16_2"),
        ("pair=clasic", "'clasic' is no <teacher>-<student>, as wrn40_2-wrn16_2, nor a list; did you mean classic?"),
        ("pair=", "pair is empty: give at least one, as in pair=wrn40_2-wrn16_2"),
        ("runs=", "runs is empty: give a value"),
        ("teacher.checkpoint=", "teacher.checkpoint is empty"),
        ("clkd.nu=1,2", "clkd.nu takes one value, not 1,2"),
        ("recipe.momentum=1.5", "recipe.momentum is 1.5: it must be below 1"),
        ("recipe.milestones=[-5]", "recipe.milestones is -5.0: it must be at least 0"),
        ("+foo=1", "'+foo=1' is not an override"),
        ("++recipe.epochs=2", "is not an override"),
        ("=3", "'=3' is not an override"),
        ("hydra.run.dir=x", "'hydra.run.dir=x' is not an override"),
    ],
)
def test_bad_input_is_refused_in_one_line_with_what_would_be_right(override, said):
    assert said in refusal(override)


@pytest.mark.parametrize("what", ["runs", "reports"])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_done(tmp_path, what):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"{what}=.*file is a file; give a folder"):
            configs.load([f"{what}={path}"])
    configs.load([f"{what}={tmp_path / 'new' / 'folder'}"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["plain", "ünï ö", "a=b", "it's", "x{y}", "tail\\", "a,b", "[1]"])
def test_a_folder_may_have_any_name(tmp_path, name):
    assert configs.load([f"runs={tmp_path / name}"]).runs == str(tmp_path / name)
    assert configs.load([f"teacher.checkpoint={tmp_path / name}"]).teacher.checkpoint == str(tmp_path / name)


def test_a_folder_in_quotes_and_below_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert configs.load(["runs='my runs'"]).runs == "my runs"
    assert configs.load(["runs=~/runs"]).runs == str(tmp_path / "runs")
    assert configs.load(["teacher.checkpoint=null"]).teacher.checkpoint is None


@pytest.mark.parametrize("content", ["pairs: 5", "", "pair: [resnet20-resnet8]", "pairs: [5]", "pairs: []", "[[["])
def test_a_list_of_pairs_that_is_none_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr(pairs, "FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=r"mine\.yaml (is no list of pairs; it needs pairs: |cannot be read: )"):
        configs.load(["pair=mine"])
