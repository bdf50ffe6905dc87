"""Composition of conf/ with overrides: precedence, scaling with the epochs, and one-line errors."""

import csv

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from analysis import published
from benchmark import networks
from benchmark.config import files, overrides, pairs
from benchmark.config.compose import MethodComposer, change_options, load_config, load_method
from benchmark.config.schema import MethodConfig
from benchmark.errors import UserError

PAIR = "wrn40_2-wrn16_2"


def error_message(override: str) -> str:
    """The one-line error of an override, raised for the command or for the method that it is about."""
    name = overrides.method_of(override)
    with pytest.raises(UserError) as e:
        load_config([override])
        load_method(name or "kd", PAIR, [override])
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("profile", files.group_names("profile"))
@pytest.mark.parametrize("dataset", files.group_names("dataset"))
def test_every_profile_composes_with_every_data_set(profile, dataset):
    config = load_config([f"profile={profile}", f"dataset={dataset}"])
    assert (config.profile, config.dataset.name) == (profile, dataset)


@pytest.mark.parametrize("name", files.group_names("method"))
def test_every_method_composes(name):
    composer = MethodComposer([])
    for pair in (PAIR, "resnet56-resnet20"):
        config = composer.method(name, pair)
        assert config.name == name and {"title", "year", "family"} <= set(config.about)


@pytest.mark.parametrize("recipe", files.group_names("recipe"))
@pytest.mark.parametrize("tracker", files.group_names("tracker"))
def test_every_recipe_and_tracker_composes(recipe, tracker):
    data = ["dataset=imagenet"] if "imagenet" in recipe else []  # RandAugment is of streamed photographs
    assert load_config([f"recipe={recipe}", f"tracker={tracker}", *data]).recipe.batch_size >= 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe=imagenet_vit"], "recipe.rand_augment is of streamed photographs"),
        (
            ["dataset=imagenet", "recipe.rand_augment=rand-m9-q3"],
            "recipe.rand_augment is 'rand-m9-q3': write it as timm does, rand-m9-mstd0.5-inc1",
        ),
        (
            ["dataset=imagenet", "recipe.rand_augment=rand-m9-mstd0.5-inc1", "dataset.decoder=dali"],
            "recipe.rand_augment is of images decoded by PIL: leave out dataset.decoder=dali",
        ),
        (["recipe.optimizer=adamw"], "recipe.optimizer=adamw has momenta of its own: give recipe.momentum=0"),
        (["recipe.schedule=cosine"], "recipe.milestones are of recipe.schedule=step: give recipe.milestones=[]"),
        (["recipe.optimizer=adam"], "recipe.optimizer cannot be 'adam'; did you mean adamw"),
        (["recipe.ema_decay=1"], "recipe.ema_decay is 1.0: it must be below 1"),
    ],
)
def test_options_of_a_recipe_that_contradict_each_other(words, message):
    with pytest.raises(UserError) as e:
        load_config(words)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_the_paper_profile_is_the_published_recipe():
    config = load_config(["profile=paper"])
    r = config.recipe
    assert (config.dataset.name, config.seeds, config.precision) == ("cifar100", [0, 1, 2], "fp32")
    assert (r.epochs, r.batch_size, r.momentum, r.nesterov, r.weight_decay) == (240, 64, 0.9, False, 5e-4)
    assert (r.milestones, r.gamma, r.lr_default, r.lr_light) == ([150.0, 180.0, 210.0], 0.1, 0.05, 0.01)
    assert (config.dataset.padding, config.dataset.flip) == (4, True)
    assert config.dataset.mean == [0.5071, 0.4867, 0.4408] and config.dataset.std == [0.2675, 0.2565, 0.2761]


def test_the_schedule_and_the_warm_ups_scale_with_the_epochs():
    short = load_config(["profile=short"])
    assert (short.recipe.epochs, short.recipe.milestones) == (20, [12.5, 15.0, 17.5])
    warmup = lambda *o: load_method("dkd", PAIR, o).options.warmup  # noqa: E731
    assert warmup("profile=paper") == 20.0
    assert warmup("profile=short") == pytest.approx(20 * 20 / 240)
    assert warmup("profile=short", "dkd.warmup=3") == 3.0


def test_a_command_line_wins_over_the_profile_which_wins_over_the_defaults():
    config = load_config(["profile=paper", "seeds=5", "dataset=cifar10", "recipe.epochs=12"])
    assert (config.seeds, config.dataset.name, config.recipe.epochs) == ([5], "cifar10", 12)


def test_a_command_line_wins_over_the_values_of_a_pair_which_win_over_defaults():
    beta = lambda pair, *o: load_method("dkd", pair, o).options.beta  # noqa: E731
    assert beta("resnet56-resnet20") == 2.0
    assert beta("resnet56-resnet20", "dkd.beta=3") == 3.0
    assert beta("resnet56-resnet20", "method.beta=3") == 3.0
    assert beta("resnet56-resnet20", "kd.temperature=2") == 2.0
    assert beta("resnet8-resnet8") == 8.0


def test_changed_options_are_listed():
    default = load_method("clkd", "resnet20-resnet8", ["dataset=digits", "recipe.lr=0.1", "kd.temperature=2"])
    assert default.changed == [] and default.options.nu != 0.4  # scaled for the data set
    changed = load_method(
        "crd_kd", "", ["crd_kd.kd.temperature=2", "crd_kd.crd.negatives=66"]
    )  # its value for the digits
    assert changed.changed == ["kd.temperature"]
    assert change_options(default, {"nu": 0.0}).changed == ["nu"]


def test_lists_are_read_with_and_without_brackets():
    for seeds in ("0,1", "[0,1]"):
        assert load_config([f"seeds={seeds}", "methods=kd,ce"]).seeds == [0, 1]
    assert len(load_config(["pair=classic"]).pair) == 13
    for methods in ("all", "all,kd"):
        assert load_config([f"methods={methods}"]).methods == files.group_names("method")
    assert load_config(["methods=[ 'kd', ce ]"]).methods == ["kd", "ce"]


def test_the_lists_of_pairs_are_those_with_published_results():
    with open(published.FILE, newline="") as f:
        rows = list(csv.DictReader(f))
    names = {f"{r['teacher']}-{r['student']}" for r in rows if r["dataset"] == "cifar100"}
    on_imagenet = {f"{r['teacher']}-{r['student']}" for r in rows if r["dataset"] == "imagenet"}
    assert set(pairs.lists()["imagenet"]) <= on_imagenet
    listed = [p for name, members in pairs.lists().items() if name != "imagenet" for p in members]
    assert [f"{t}-{s}" for t, s in map(networks.split_pair, listed)] == listed  # known, and in their usual names
    assert len(set(listed)) == len(listed)
    assert set(listed) == {p for p in names if not p.endswith("ShuffleV2_1.5")}  # a network that is not among ours


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("resnet56-resnet20", ["profile=paper"]),
        (PAIR, ["profile=quick", "dataset=cifar10", "method.ce_weight=0.5"]),
        ("resnet20-resnet8", ["profile=short", "recipe.epochs=12", "kd.temperature=${recipe.lr_default}"]),
    ],
)
def test_a_composer_gives_each_pair_what_a_composition_of_its_own_gives(pair, words):
    composer = MethodComposer(words)
    composer.method("kd", "vgg13-vgg8")
    composer.method("dkd", "vgg13-vgg8")

    def content(config: MethodConfig) -> tuple[object, ...]:
        return config.resolved(), config.changed, config.tune, config.about

    for name in ("kd", "dkd", "dkd_ls"):
        assert content(composer.method(name, pair)) == content(load_method(name, pair, words))
        assert composer.method(name, pair) is composer.method(name, pair)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.epoch=3", "unknown key 'recipe.epoch'; did you mean recipe.epochs"),
        ("recipee.epochs=3", "did you mean recipe.epochs"),
        ("lr=0.1", "unknown key 'lr'; did you mean recipe.lr?"),
        ("checkpoint=x", "unknown key 'checkpoint'; did you mean teacher.checkpoint?"),
        ("methods=kd,crd+kd", "unknown method 'crd+kd'; did you mean crd_kd?"),
        ("methods=kd+crd", "unknown method 'kd+crd'; did you mean crd_kd?"),
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
        ("teacher.train_size=alle", "teacher.train_size is 'alle': give a number of images, all, or null"),
        ("teacher.train_size=0", "teacher.train_size is '0': give a number of images, all, or null"),
        ("teacher.train_size=-5", "teacher.train_size is '-5': give a number of images, all, or null"),
        ("evaluate_every=0", "evaluate_every is 0: it must be at least 1"),
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
        ("recipe.milestones=[[1]]", "recipe.milestones is [1]: each element must be a single value"),
        ("recipe.lr=1e308", "recipe.lr is 1e+308: it must be at most 1e+06"),
        ("kd.temperature=1e308", "kd.temperature is 1e+308: it must be at most 1e+06"),
        ("crd.negatives=1000000000000", "crd.negatives is 1000000000000: it must be at most 1e+06"),
        ("dataset.mean=${scaled:1}", "dataset.mean"),
        ("recipe.milestones=[-5]", "recipe.milestones is -5.0: it must be at least 0"),
        ("+foo=1", "'+foo=1' is not an override"),
        ("++recipe.epochs=2", "is not an override"),
        ("=3", "'=3' is not an override"),
        ("hydra.run.dir=x", "'hydra.run.dir=x' is not an override"),
    ],
)
def test_invalid_overrides_are_refused_in_one_line(override, message):
    assert message in error_message(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dot.delta=2", "dot.delta is 2.0: it must be at most 0.5"),
        ("catkd.resolution=9999", "catkd.resolution is 9999: it must be at most 256"),
    ],
)
def test_values_that_no_training_could_use_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        load_method(override.split(".")[0], PAIR, [override])


@pytest.mark.parametrize("what", ["runs", "reports"])
def test_a_folder_that_cannot_be_created_is_refused(tmp_path, what):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"{what}=.*file is a file; give a folder"):
            load_config([f"{what}={path}"])
    load_config([f"{what}={tmp_path / 'new' / 'folder'}"])
    assert not (tmp_path / "new").exists()


def test_a_folder_in_quotes_or_below_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(["runs='my runs'"]).runs == "my runs"
    assert load_config(["runs=~/runs"]).runs == str(tmp_path / "runs")
    assert load_config(["teacher.checkpoint=null"]).teacher.checkpoint is None


@pytest.mark.parametrize("content", ["pairs: 5", "", "pair: [resnet20-resnet8]", "pairs: [5]", "pairs: []", "[[["])
def test_an_invalid_list_of_pairs_is_named(tmp_path, monkeypatch, content):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "mine.yaml").write_text(content)
    monkeypatch.setattr(files, "CONF", tmp_path)
    with pytest.raises(UserError, match=r"mine\.yaml (is no list of pairs; it needs pairs: |cannot be read: )"):
        pairs.lists()


@pytest.mark.parametrize("name", files.group_names("method"))
def test_a_methods_part_is_that_of_a_composition_of_everything(name):
    """Against Hydra's composition of the whole config with this method."""
    load_config([])  # tells Hydra the schema
    with initialize_config_dir(str(files.CONF), version_base="1.3"):
        expected = compose("config", [f"method={name}", "profile=short"])
    composer = MethodComposer(["profile=short"])
    root = composer._root_with(composer._compose(name).tree)
    assert OmegaConf.to_container(root, resolve=True) == OmegaConf.to_container(expected, resolve=True)
