"""Two methods at once: the sum of their terms."""

import pytest
import torch
from omegaconf import OmegaConf

import methods
from methods.combination import combined
from methods.contract import Method, Needs, UnsupportedPair, total
from tests.methods.conftest import only, small


@pytest.fixture
def build(read_yaml):
    """build(parts): the combination of methods with the options of their YAMLs."""

    def one(parts):
        implementation = methods.load("+".join(parts))
        tree = {p: only(methods.load(p).Options, read_yaml(p)) for p in parts}
        return implementation(
            OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(implementation.Options), tree)), small()
        )

    return one


def test_the_terms_are_those_of_the_parts_and_shared_ones_add_their_weights(make, make_batch, make_outputs):
    both = make("fitnet_kd", kd={"ce_weight": 0.25, "temperature": 3.0})
    fitnet, kd = make("fitnet"), make("kd", ce_weight=0.25, kd_weight=1.0, temperature=3.0)
    fitnet.load_state_dict(both.parts["fitnet"].state_dict())
    student, teacher, batch = make_outputs(8, 1, torch.float32), make_outputs(8, 2, torch.float32), make_batch(8)
    found = both.losses(student, teacher, batch)
    expected = [m.losses(student, teacher, batch) for m in (fitnet, kd)]
    assert list(found) == ["ce", "hint", "kd"]
    assert found["ce"].weight == 1.25 and torch.equal(found["ce"].value, expected[0]["ce"].value)
    for name, own in (("hint", expected[0]), ("kd", expected[1])):
        assert torch.equal(found[name].value, own[name].value) and found[name].weight == own[name].weight


def test_needs_and_layers_are_those_of_all_parts(make):
    both = make("crd_kd")
    assert both.teacher_needs == Needs(logits=True, pooled=True)
    assert both.student_needs == Needs(logits=True, pooled=True)
    assert {n.split(".")[1] for n, _ in both.named_parameters()} == {"crd"}
    assert {n.removeprefix("parts.crd.") for n, _ in both.named_buffers()} == {"bank_s", "bank_t", "params"}


def test_the_parts_see_the_step(make, make_batch, make_outputs):
    both, batch = make("crd_kd"), make_batch(4)
    before = both.parts["crd"].bank_s.clone()
    both.losses(make_outputs(4, 1, torch.float32), make_outputs(4, 2, torch.float32), batch)
    with torch.no_grad():
        both.after_step()
    changed = (both.parts["crd"].bank_s != before).any(1).nonzero()[:, 0]
    assert changed.tolist() == sorted(batch.indices.tolist())


def test_refuses_a_part_with_a_step_of_its_own():
    class Own(Method):
        def descend(self, terms, optimiser):
            return super().descend(terms, optimiser)

    with pytest.raises(TypeError, match="own cannot be combined"):
        combined({"own": Own, "kd": methods.load("kd")})


def test_an_unknown_part_is_a_key_error():
    with pytest.raises(KeyError, match="kdd"):
        methods.load("crd+kdd")


def test_a_part_that_cannot_be_says_so(make):
    from methods.contract import Context, Shapes

    shapes = [Shapes(((2, 8, 8), (2, 8, 8), size), 6) for size in ((3, 4, 4), (3, 32, 32))]
    with pytest.raises(UnsupportedPair):
        make("fitnet_kd", Context(5, *shapes, torch.arange(40) % 5, 20))


def test_terms_of_one_name_and_different_values_are_told_apart(build, make_batch, make_outputs):
    """KD and LoCa both call their term `kd`; MLLD's cross-entropy is of two views and KD's of one."""
    student, teacher, batch = make_outputs(8, 1, torch.float32), make_outputs(8, 2, torch.float32), make_batch(8)
    for parts, names in ((("kd", "loca"), ["ce", "kd", "loca_kd"]), (("mlld", "kd"), None)):
        both = build(parts)
        found = both.losses(student, teacher, batch)
        expected = [part.losses(student, teacher, batch) for part in both.parts.values()]
        assert names is None or list(found) == names
        assert total(found).item() == pytest.approx(sum(total(terms).item() for terms in expected), rel=1e-6)
    assert {"ce", "kd_ce", "kd_kd"} < set(found)


def test_a_first_stage_is_of_the_parts_that_have_one(build, make_batch, make_outputs):
    student, teacher = make_outputs(8, 1, torch.float32), make_outputs(8, 2, torch.float32)
    both = build(("fsp", "dkd"))
    assert both.pre_epochs == both.parts["fsp"].pre_epochs > 0
    both.begin(0)
    assert list(both.losses(student, teacher, make_batch(8, epoch=0))) == ["fsp"]
    both.begin(1)
    assert {"ce", "tckd", "nckd"} <= set(both.losses(student, teacher, make_batch(8)))
