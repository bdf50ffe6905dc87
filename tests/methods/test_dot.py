"""DOT: an optimiser step with separate momenta, against a loop over numbers; its state in the optimiser."""

import copy
import dataclasses

import pytest
import torch

from methods import dkd
from methods.contract import Term
from methods.dot import DOT, SeparateMomenta, step

STEPS = 4


def problem():
    """Two parameters that both terms reach, one that just the task's reaches and one that just the distillation's."""
    own = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (2,), (4,), (5,))
    return [torch.randn(s, generator=own, dtype=torch.float64).requires_grad_() for s in shapes]


def terms_of(parameters):
    """Two terms of the parameters whose gradients change from step to step."""
    a, b, task, distil = parameters
    ce = (a @ b).square().sum() + a.sin().sum() + task.pow(4).sum()
    return {"ce": Term(ce, 0.1), "kd": Term((a.cos() @ b).sum() + (b * b).sum() + distil.exp().sum(), 0.9)}


def optimiser_of(parameters, **settings):
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02} | settings
    return torch.optim.SGD(parameters, **settings)


def by_hand(steps, delta, lr, momentum, decay, nesterov):
    """The parameters after some steps, number by number from the gradients of the two terms."""
    parameters = problem()
    velocity = [[None, None] for _ in parameters]
    for _ in range(steps):
        terms = terms_of(parameters)
        found = [
            torch.autograd.grad(t.weight * t.value, parameters, allow_unused=True, retain_graph=True)
            for t in (terms["ce"], terms["kd"])
        ]
        with torch.no_grad():
            for i, p in enumerate(parameters):
                before = p.clone()
                for kind, sign in ((0, -1), (1, 1)):
                    g = found[kind][i]
                    if g is None:
                        continue
                    alone = found[1 - kind][i] is None
                    m = momentum if alone else momentum + sign * delta
                    if alone or kind == 0:
                        g = g + decay * before
                    old = velocity[i][kind]
                    velocity[i][kind] = g if old is None else m * old + g
                    p -= lr * (g + m * velocity[i][kind] if nesterov else velocity[i][kind])
    return parameters


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("delta", [0.075, 0.09])
def test_steps_equal_a_loop_by_hand(make, delta, nesterov):
    parameters, method = problem(), make("dot", delta=delta)
    optimiser = optimiser_of(parameters, nesterov=nesterov)
    for _ in range(STEPS):
        method.descend(terms_of(parameters), optimiser)
    expected = by_hand(STEPS, delta, 0.05, 0.9, 0.02, nesterov)
    for p, e in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p, e)


def test_two_steps_of_one_number_by_hand(make):
    # L_task = 2x, L_kd = 3x; momenta 0.4 and 0.6, weight decay 0.1, rate 0.5
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    method, optimiser = make("dot", delta=0.1), torch.optim.SGD([x], 0.5, 0.5, weight_decay=0.1)
    terms = lambda: {"ce": Term(x, 2.0), "kd": Term(x, 3.0)}  # noqa: E731
    assert method.descend(terms(), optimiser).item() == 5.0
    assert x.item() == pytest.approx(1 - 0.5 * (2.1 + 3))  # = −1.55
    method.descend(terms(), optimiser)
    # v_task = 0.4 · 2.1 + 2 − 0.155 = 2.685, v_kd = 0.6 · 3 + 3 = 4.8
    assert x.item() == pytest.approx(-1.55 - 0.5 * (2.685 + 4.8))


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_delta_it_is_plain_sgd(make, nesterov):
    ours, plain = problem(), problem()
    method = make("dot", delta=0.0)
    optimisers = [optimiser_of(p, nesterov=nesterov) for p in (ours, plain)]
    for _ in range(STEPS):
        loss = method.descend(terms_of(ours), optimisers[0])
        torch.testing.assert_close(loss, super(SeparateMomenta, method).descend(terms_of(plain), optimisers[1]))
    for p, e in zip(ours, plain, strict=True):
        torch.testing.assert_close(p, e)


def test_the_rate_of_the_groups_is_followed(make):
    parameters = problem()
    optimiser = optimiser_of(parameters)
    optimiser.param_groups[0]["lr"] = 0.0
    make("dot").descend(terms_of(parameters), optimiser)
    assert all(torch.equal(p, e) for p, e in zip(parameters, problem(), strict=True))


def test_both_buffers_are_in_the_optimiser_s_state_and_go_on_from_it(make):
    parameters, method = problem(), make("dot")
    optimiser = optimiser_of(parameters)
    for _ in range(2):
        method.descend(terms_of(parameters), optimiser)
    state = copy.deepcopy(optimiser.state_dict())
    assert [set(s) for s in state["state"].values()] == [
        {"momentum_buffer", "distillation_buffer"}, {"momentum_buffer", "distillation_buffer"},
        {"momentum_buffer"}, {"distillation_buffer"},
    ]  # fmt: skip

    resumed = [p.detach().clone().requires_grad_() for p in parameters]
    again = optimiser_of(resumed)
    again.load_state_dict(state)
    for _ in range(2):
        method.descend(terms_of(parameters), optimiser)
        make("dot").descend(terms_of(resumed), again)
    assert all(torch.equal(p, r) for p, r in zip(parameters, resumed, strict=True))
    # and without the state it would not be the same
    fresh = [p.detach().clone().requires_grad_() for p in parameters]
    method.descend(terms_of(parameters), optimiser)
    method.descend(terms_of(fresh), optimiser_of(fresh))
    assert not torch.equal(parameters[0], fresh[0])


def test_several_groups_have_settings_of_their_own(make):
    ours = problem()
    groups = [{"params": ours[:1]}, {"params": ours[1:], "lr": 0.01, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.02)
    make("dot").descend(terms_of(ours), optimiser)
    first, rest = by_hand(1, 0.075, 0.05, 0.9, 0.02, False), by_hand(1, 0.075, 0.01, 0.9, 0.0, False)
    for p, e in zip(ours, [first[0], *rest[1:]], strict=True):
        torch.testing.assert_close(p, e)


@pytest.mark.parametrize(("momentum", "most"), [(0.95, "0.05"), (0.05, "0.05")])
def test_momenta_below_0_or_from_1_are_refused(make, momentum, most):
    parameters = problem()
    with pytest.raises(ValueError, match=f"delta is 0.075: .* at most {most}"):
        make("dot").descend(terms_of(parameters), optimiser_of(parameters, momentum=momentum))


def test_a_parameter_that_no_term_reaches_is_left_alone(make):
    parameters = problem()
    alone = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimiser = optimiser_of([*parameters, alone])
    make("dot").descend(terms_of(parameters), optimiser)
    assert torch.equal(alone, torch.ones(2, dtype=torch.float64)) and not optimiser.state[alone]
    step(optimiser, {}, {}, 0.0)  # nothing reaches anything: nothing happens


def test_the_loss_is_that_of_kd(make, make_batch, make_outputs):
    student, teacher, batch = make_outputs(6, 1), make_outputs(6, 2), make_batch(6)
    ours, kd = (make(name).losses(student, teacher, batch) for name in ("dot", "kd"))
    assert ours == kd
    assert make("dot").options.delta == 0.075


def test_other_methods_can_be_trained_so(make, make_batch, make_outputs):
    @dataclasses.dataclass
    class Options(dkd.Options):
        delta: float

    class DKDWithDOT(SeparateMomenta, dkd.DKD):
        pass

    plain = make("dkd")
    method = DKDWithDOT(Options(**dataclasses.asdict(plain.options), delta=0.075), plain.context)
    student, teacher, batch = make_outputs(6, 1, grad=True), make_outputs(6, 2), make_batch(6)
    before = student.logits.detach().clone()
    optimiser = optimiser_of([student.logits], weight_decay=0.0)
    for _ in range(2):
        method.descend(method.losses(student, teacher, batch), optimiser)
    # ce is the task's, tckd and nckd are the distillation's
    z = before.clone().requires_grad_()
    task, distil = torch.zeros_like(z), torch.zeros_like(z)
    for _ in range(2):
        student.logits = z
        terms = plain.losses(student, teacher, batch)
        (g_task,) = torch.autograd.grad(terms["ce"].weight * terms["ce"].value, z, retain_graph=True)
        (g_distil,) = torch.autograd.grad(sum(terms[k].weight * terms[k].value for k in ("tckd", "nckd")), z)
        task, distil = 0.825 * task + g_task, 0.975 * distil + g_distil
        z = (z - 0.05 * (task + distil)).detach().requires_grad_()
    torch.testing.assert_close(optimiser.param_groups[0]["params"][0], z)


def test_has_nothing_of_its_own_to_train_or_keep():
    assert DOT.descend is SeparateMomenta.descend and not DOT.second_view and not DOT.pre_epochs
