"""Combinations of methods: the sum of their terms, and the union of their requirements."""

import dataclasses

import pytest
import torch

import methods
from methods.combination import combine
from methods.contract import Context, Method, Needs, Shapes, UnsupportedPair, weighted_sum
from methods.options import build_options, restrict
from tests.methods.conftest import small_context


@pytest.fixture
def build(read_yaml):
    """build(parts): the combination of methods with the options of their YAMLs."""

    def build_combination(parts):
        implementation = methods.load("+".join(parts))
        values = {part: restrict(methods.load(part).Options, read_yaml(part)) for part in parts}
        return implementation(build_options(implementation.Options, values), small_context())

    return build_combination


def test_terms_are_those_of_the_parts_and_the_weights_of_cross_entropy_add_up(make, make_batch, make_outputs):
    combination = make("fitnet_kd", kd={"ce_weight": 0.25, "temperature": 3.0})
    fitnet, kd = make("fitnet"), make("kd", ce_weight=0.25, kd_weight=1.0, temperature=3.0)
    fitnet.load_state_dict(combination.parts["fitnet"].state_dict())
    student, teacher, batch = make_outputs(8, 1, torch.float32), make_outputs(8, 2, torch.float32), make_batch(8)
    terms = combination.losses(student, teacher, batch)
    expected = [m.losses(student, teacher, batch) for m in (fitnet, kd)]
    assert list(terms) == ["ce", "hint", "kd"]
    assert terms["ce"].weight == 1.25 and torch.equal(terms["ce"].value, expected[0]["ce"].value)
    for name, part in (("hint", expected[0]), ("kd", expected[1])):
        assert torch.equal(terms[name].value, part[name].value) and terms[name].weight == part[name].weight


def test_requirements_and_layers_are_those_of_all_parts(make):
    combination = make("crd_kd")
    assert combination.requires.teacher == Needs(logits=True, pooled=True)
    assert combination.requires.student == Needs(logits=True, pooled=True)
    assert {n.split(".")[1] for n, _ in combination.named_parameters()} == {"crd"}
    assert {n.removeprefix("parts.crd.") for n, _ in combination.named_buffers()} == {"bank_s", "bank_t", "params"}


def test_the_end_of_a_step_reaches_the_parts(make, make_batch, make_outputs):
    combination, batch = make("crd_kd"), make_batch(4)
    before = combination.parts["crd"].bank_s.clone()
    combination.losses(make_outputs(4, 1, torch.float32), make_outputs(4, 2, torch.float32), batch)
    with torch.no_grad():
        combination.on_step_end()
    changed = (combination.parts["crd"].bank_s != before).any(1).nonzero()[:, 0]
    assert changed.tolist() == sorted(batch.indices.tolist())


@pytest.mark.parametrize("hook", ["optimizer_step", "inference_model"])
def test_a_part_that_overrides_a_hook_of_the_whole_step_is_rejected(hook):
    custom = type("Custom", (Method,), {hook: lambda *_: None})
    with pytest.raises(TypeError, match=f"custom cannot be combined .*{hook}"):
        combine({"custom": custom, "kd": methods.load("kd")})


def test_an_unknown_part_is_a_key_error():
    with pytest.raises(KeyError, match="kdd"):
        methods.load("crd+kdd")


def test_a_pair_that_one_part_does_not_support_is_unsupported(make):
    shapes = [Shapes(((2, 8, 8), (2, 8, 8), size), 6) for size in ((3, 4, 4), (3, 32, 32))]
    with pytest.raises(UnsupportedPair):
        make("fitnet_kd", Context(5, *shapes, torch.arange(40) % 5, 20))


def test_different_terms_of_the_same_name_are_prefixed(build, make_batch, make_outputs):
    """KD and LoCa combination call their term `kd`; MLLD's cross-entropy covers two views and KD's one."""
    student, teacher, batch = make_outputs(8, 1, torch.float32), make_outputs(8, 2, torch.float32), make_batch(8)
    for parts, names in ((("kd", "loca"), ["ce", "kd", "loca_kd"]), (("mlld", "kd"), None)):
        combination = build(parts)
        terms = combination.losses(student, teacher, batch)
        expected = [part.losses(student, teacher, batch) for part in combination.parts.values()]
        assert names is None or list(terms) == names
        assert weighted_sum(terms).item() == pytest.approx(
            sum(weighted_sum(part).item() for part in expected), rel=1e-6
        )
    assert {"ce", "kd_ce", "kd_kd"} < set(terms)


def test_an_initialization_stage_trains_only_the_parts_that_have_one(build, make_batch, make_outputs):
    student, teacher = make_outputs(8, 1, torch.float32), make_outputs(8, 2, torch.float32)
    combination = build(("fsp", "dkd"))
    assert combination.requires.init_epochs == combination.parts["fsp"].requires.init_epochs > 0
    assert list(combination.losses(student, teacher, make_batch(8, epoch=0))) == ["fsp"]
    assert {"ce", "tckd", "nckd"} <= set(combination.losses(student, teacher, make_batch(8)))


def test_hooks_reach_the_parts_that_train_in_an_epoch_or_require_features(make):
    calls = []

    class Recorder:
        def on_teacher_features(self, features, labels):
            calls.append(("features", type(self).__name__))

        def on_epoch_start(self, epoch):
            calls.append((epoch, type(self).__name__))

    class Reader(Recorder, methods.load("kd")):
        @classmethod
        def requirements(cls, options, student, teacher):
            return dataclasses.replace(super().requirements(options, student, teacher), teacher_features=True)

    class Initialized(Recorder, methods.load("fsp")):
        pass

    implementation = combine({"kd": Reader, "fsp": Initialized})
    options = implementation.Options(make("kd").options, make("fsp").options)
    combination = implementation(options, small_context())
    assert combination.requires.teacher_features
    combination.on_teacher_features(torch.zeros(40, 6), torch.zeros(40))
    combination.on_epoch_start(0)
    combination.on_epoch_start(1)
    assert calls == [("features", "Reader"), (0, "Initialized"), (1, "Reader"), (1, "Initialized")]
