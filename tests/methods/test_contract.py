"""The contract: needs, outputs of views, requirements, and messages about a method that breaks it."""

import pytest
import torch

from methods.contract import Initialization, Method, Needs, Outputs, Requirements, Term, check_terms, weighted_sum


def scalar(**options):
    return torch.tensor(1.0, **options)


# ---------------------------------------------------------------- needs and outputs


def test_needs_keep_any_collection_as_a_frozenset():
    assert Needs(maps=[2, 1, 2]) == Needs(maps=(1, 2)) == Needs(maps=frozenset({1, 2}))
    assert hash(Needs(class_maps=[2])) == hash(Needs(class_maps={2}))


def test_the_union_of_needs_has_the_outputs_of_both():
    union = Needs(logits=True, maps=[1]) | Needs(pooled=True, maps=[2], class_maps=[4])
    assert union == Needs(logits=True, pooled=True, maps=[1, 2], class_maps=[4])


@pytest.mark.parametrize(
    ("needs", "last_stage", "empty"),
    [
        (Needs(), -1, True),
        (Needs(maps=[0]), 0, False),
        (Needs(maps=[1], pre_activations=[3]), 3, False),
        (Needs(maps=[1], logits=True), None, False),
        (Needs(pooled=True), None, False),
        (Needs(last_map=True), None, False),
        (Needs(class_maps=[2]), None, False),
    ],
)
def test_the_last_stage_is_the_deepest_that_must_run(needs, last_stage, empty):
    assert needs.last_stage == last_stage
    assert needs.empty is empty


def test_selected_outputs_are_the_needed_ones_in_full_precision(make_outputs):
    outputs = make_outputs(3, dtype=torch.bfloat16)
    selected = outputs.select(Needs(pooled=True, maps=[1], class_maps=[2]))
    for view in (0, 1):
        source, result = outputs.view(view), selected.view(view)
        assert result.logits is None and result.last_map is None and not result.pre_activations
        assert result.maps.keys() == {1} and result.class_maps.keys() == {2}
        torch.testing.assert_close(result.pooled, source.pooled.float(), rtol=0, atol=0)
        torch.testing.assert_close(result.maps[1], source.maps[1].float(), rtol=0, atol=0)
    assert selected.view(1) is selected.further_views[0]


def test_the_gradient_of_a_channels_last_map_keeps_its_memory_format():
    maps = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).bfloat16().requires_grad_()
    inner = maps * 1.0
    formats = []
    inner.register_hook(lambda gradient: formats.append(gradient.is_contiguous(memory_format=torch.channels_last)))
    selected = Outputs(maps={1: inner}).select(Needs(maps=[1])).maps[1]
    (selected * torch.randn(2, 3, 4, 4)).sum().backward()
    assert formats == [True]


# ---------------------------------------------------------------- requirements


def test_an_initialization_stage_has_its_own_needs_up_to_epoch_0():
    maps = Needs(maps=[1])
    requirements = Requirements(Needs(logits=True), Needs(), initialization=Initialization(3, maps, maps))
    assert requirements.init_epochs == 3
    assert requirements.needs(0) == requirements.needs(-2) == (maps, maps)
    assert requirements.needs(1) == (Needs(logits=True), Needs())


def test_class_attributes_are_the_default_requirements():
    class Pooled(Method):
        student_needs = Needs(logits=True, pooled=True)
        teacher_needs = Needs(pooled=True)
        views = 2

    assert Pooled.requirements(None, None, None) == Requirements(Pooled.student_needs, Pooled.teacher_needs, 2)


# ---------------------------------------------------------------- terms and steps


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"kd": Term(torch.ones(3, requires_grad=True), 1.0)}, r"term kd of Custom must be a Term\(.*, not \(3,\)"),
        ({"kd": (scalar(requires_grad=True), 1.0)}, "not tuple"),
        ({"kd": scalar(requires_grad=True)}, "not Tensor"),
        ({"kd": Term(1.0, 1.0)}, "not Term"),
        ({"ce": Term(scalar(), 1.0), "kd": Term(scalar(), 1.0)}, "no term of Custom has a gradient: ce, kd"),
        ({}, "no term of Custom has a gradient: it returned no terms"),
    ],
)
def test_terms_that_cannot_be_trained_raise_an_error_with_their_name(terms, message):
    with pytest.raises(TypeError, match=message):
        check_terms(terms, "Custom")


def test_a_term_without_gradient_is_allowed_next_to_one_with():
    check_terms({"ce": Term(scalar(requires_grad=True), 1.0), "constant": Term(scalar(), 0.0)}, "Custom")


def test_a_method_without_losses_raises_an_error_with_its_name():
    with pytest.raises(NotImplementedError, match="Custom defines no losses"):
        Method.losses(object.__new__(type("Custom", (Method,), {})), None, None, None)


def test_the_optimizer_step_minimizes_the_weighted_sum():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    terms = {"a": Term(x.sum(), 2.0), "b": Term(x[0] * x[1], 3.0)}
    assert weighted_sum(terms).item() == 2 * 3 + 3 * 2
    x.grad = torch.tensor([100.0, 100.0])  # gradients of an earlier step do not count
    method = object.__new__(Method)
    loss = method.optimizer_step(terms, torch.optim.SGD([x], 0.1))
    assert loss.item() == 12 and not loss.requires_grad
    assert x.tolist() == pytest.approx([1 - 0.1 * 8, 2 - 0.1 * 5])
