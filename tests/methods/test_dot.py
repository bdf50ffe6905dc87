"""DOT: an optimizer step with separate momenta, and its state in the optimizer."""

import copy
import dataclasses

import pytest
import torch

from methods import dkd
from methods.contract import Term
from methods.dot import DOT, SeparateMomenta, step

STEPS = 4


def problem():
    """Build two parameters of both terms, one of the task's alone, and one of the distillation's alone."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (2,), (4,), (5,))
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def terms_of(parameters):
    """Return two terms of the parameters whose gradients change from step to step."""
    a, b, task, distil = parameters
    ce = (a @ b).square().sum() + a.sin().sum() + task.pow(4).sum()
    return {"ce": Term(ce, 0.1), "kd": Term((a.cos() @ b).sum() + (b * b).sum() + distil.exp().sum(), 0.9)}


def optimizer_of(parameters, **settings):
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02} | settings
    return torch.optim.SGD(parameters, **settings)


def naive_steps(steps, delta, lr, momentum, decay, nesterov):
    """Return the parameters after some steps, computed tensor by tensor from the gradients of the two terms."""
    parameters = problem()
    velocity = [[None, None] for _ in parameters]
    for _ in range(steps):
        terms = terms_of(parameters)
        gradients = [
            torch.autograd.grad(t.weight * t.value, parameters, allow_unused=True, retain_graph=True)
            for t in (terms["ce"], terms["kd"])
        ]
        with torch.no_grad():
            for i, p in enumerate(parameters):
                before = p.clone()
                for kind, sign in ((0, -1), (1, 1)):
                    g = gradients[kind][i]
                    if g is None:
                        continue
                    alone = gradients[1 - kind][i] is None
                    m = momentum if alone else momentum + sign * delta
                    if alone or kind == 0:
                        g = g + decay * before
                    old = velocity[i][kind]
                    velocity[i][kind] = g if old is None else m * old + g
                    p -= lr * (g + m * velocity[i][kind] if nesterov else velocity[i][kind])
    return parameters


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("delta", [0.075, 0.09])
def test_steps_equal_naive_loops(make, delta, nesterov):
    parameters, method = problem(), make("dot", delta=delta)
    optimizer = optimizer_of(parameters, nesterov=nesterov)
    for _ in range(STEPS):
        method.optimizer_step(terms_of(parameters), optimizer)
    expected = naive_steps(STEPS, delta, 0.05, 0.9, 0.02, nesterov)
    for p, e in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p, e)


def test_two_steps_of_a_scalar_by_hand(make):
    # L_task = 2x, L_kd = 3x; momenta 0.4 and 0.6, weight decay 0.1, rate 0.5
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    method, optimizer = make("dot", delta=0.1), torch.optim.SGD([x], 0.5, 0.5, weight_decay=0.1)
    terms = lambda: {"ce": Term(x, 2.0), "kd": Term(x, 3.0)}  # noqa: E731
    assert method.optimizer_step(terms(), optimizer).item() == 5.0
    assert x.item() == pytest.approx(1 - 0.5 * (2.1 + 3))  # = −1.55
    method.optimizer_step(terms(), optimizer)
    # v_task = 0.4 · 2.1 + 2 − 0.155 = 2.685, v_kd = 0.6 · 3 + 3 = 4.8
    assert x.item() == pytest.approx(-1.55 - 0.5 * (2.685 + 4.8))


@pytest.mark.parametrize("nesterov", [False, True])
def test_delta_0_is_plain_sgd(make, nesterov):
    parameters_dot, reference = problem(), problem()
    method = make("dot", delta=0.0)
    optimizers = [optimizer_of(p, nesterov=nesterov) for p in (parameters_dot, reference)]
    for _ in range(STEPS):
        loss = method.optimizer_step(terms_of(parameters_dot), optimizers[0])
        torch.testing.assert_close(
            loss, super(SeparateMomenta, method).optimizer_step(terms_of(reference), optimizers[1])
        )
    for p, e in zip(parameters_dot, reference, strict=True):
        torch.testing.assert_close(p, e)


def test_the_learning_rate_of_the_group_is_used(make):
    parameters = problem()
    optimizer = optimizer_of(parameters)
    optimizer.param_groups[0]["lr"] = 0.0
    make("dot").optimizer_step(terms_of(parameters), optimizer)
    assert all(torch.equal(p, e) for p, e in zip(parameters, problem(), strict=True))


def test_both_buffers_are_saved_in_and_restored_from_the_optimizer_state(make):
    parameters, method = problem(), make("dot")
    optimizer = optimizer_of(parameters)
    for _ in range(2):
        method.optimizer_step(terms_of(parameters), optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    assert [set(s) for s in state["state"].values()] == [
        {"momentum_buffer", "distillation_buffer"}, {"momentum_buffer", "distillation_buffer"},
        {"momentum_buffer"}, {"distillation_buffer"},
    ]  # fmt: skip

    resumed = [p.detach().clone().requires_grad_() for p in parameters]
    new_optimizer = optimizer_of(resumed)
    new_optimizer.load_state_dict(state)
    for _ in range(2):
        method.optimizer_step(terms_of(parameters), optimizer)
        make("dot").optimizer_step(terms_of(resumed), new_optimizer)
    assert all(torch.equal(p, r) for p, r in zip(parameters, resumed, strict=True))
    # without the state the result differs
    fresh = [p.detach().clone().requires_grad_() for p in parameters]
    method.optimizer_step(terms_of(parameters), optimizer)
    method.optimizer_step(terms_of(fresh), optimizer_of(fresh))
    assert not torch.equal(parameters[0], fresh[0])


def test_parameter_groups_keep_their_settings(make):
    parameters_dot = problem()
    groups = [{"params": parameters_dot[:1]}, {"params": parameters_dot[1:], "lr": 0.01, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.02)
    make("dot").optimizer_step(terms_of(parameters_dot), optimizer)
    first, rest = naive_steps(1, 0.075, 0.05, 0.9, 0.02, False), naive_steps(1, 0.075, 0.01, 0.9, 0.0, False)
    for p, e in zip(parameters_dot, [first[0], *rest[1:]], strict=True):
        torch.testing.assert_close(p, e)


@pytest.mark.parametrize(("momentum", "most"), [(0.95, "0.05"), (0.05, "0.05")])
def test_momenta_below_0_or_from_1_are_rejected(make, momentum, most):
    parameters = problem()
    with pytest.raises(ValueError, match=f"delta is 0.075: .* at most {most}"):
        make("dot").optimizer_step(terms_of(parameters), optimizer_of(parameters, momentum=momentum))


def test_a_parameter_without_gradient_is_unchanged(make):
    parameters = problem()
    alone = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_of([*parameters, alone])
    make("dot").optimizer_step(terms_of(parameters), optimizer)
    assert torch.equal(alone, torch.ones(2, dtype=torch.float64)) and not optimizer.state[alone]
    step(optimizer, {}, {}, 0.0)  # no gradients: no change


def test_the_loss_is_that_of_kd(make, make_batch, make_outputs):
    student, teacher, batch = make_outputs(6, 1), make_outputs(6, 2), make_batch(6)
    parameters_dot, kd = (make(name).losses(student, teacher, batch) for name in ("dot", "kd"))
    assert parameters_dot == kd
    assert make("dot").options.delta == 0.075


def test_another_method_can_be_trained_with_separate_momenta(make, make_batch, make_outputs):
    @dataclasses.dataclass
    class Options(dkd.DKDOptions):
        delta: float

    class DKDWithDOT(SeparateMomenta, dkd.DKD):
        pass

    reference = make("dkd")
    method = DKDWithDOT(Options(**dataclasses.asdict(reference.options), delta=0.075), reference.context)
    student, teacher, batch = make_outputs(6, 1, grad=True), make_outputs(6, 2), make_batch(6)
    before = student.logits.detach().clone()
    optimizer = optimizer_of([student.logits], weight_decay=0.0)
    for _ in range(2):
        method.optimizer_step(method.losses(student, teacher, batch), optimizer)
    # ce is the task's, tckd and nckd are the distillation's
    z = before.clone().requires_grad_()
    task, distil = torch.zeros_like(z), torch.zeros_like(z)
    for _ in range(2):
        student.logits = z
        terms = reference.losses(student, teacher, batch)
        (g_task,) = torch.autograd.grad(terms["ce"].weight * terms["ce"].value, z, retain_graph=True)
        (g_distil,) = torch.autograd.grad(sum(terms[k].weight * terms[k].value for k in ("tckd", "nckd")), z)
        task, distil = 0.825 * task + g_task, 0.975 * distil + g_distil
        z = (z - 0.05 * (task + distil)).detach().requires_grad_()
    torch.testing.assert_close(optimizer.param_groups[0]["params"][0], z)


def test_requirements_are_those_of_kd(make):
    assert DOT.optimizer_step is SeparateMomenta.optimizer_step
    assert make("dot").requires == make("kd").requires
