"""WKD-L: the costs between classes, Sinkhorn's transport plan, and the decay of the weight."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from methods.contract import Context, Shapes
from methods.wkd_l import features_by_class, linear_cka, transport_distance
from tests.methods.conftest import CLASSES, randn, training_features


def naive_cka(x, y):
    """Centered kernel alignment by the Hilbert-Schmidt independence criterion of the Gram matrices."""
    n = len(x)
    centering = np.eye(n) - np.ones((n, n)) / n

    def hsic(a, b):
        return np.trace(centering @ (a @ a.T) @ centering @ (b @ b.T))

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def naive_cost(features, labels, sharpening):
    classes = [features[labels == c].double().numpy() for c in range(int(labels.max()) + 1)]
    distances = [[1 - naive_cka(x, y) for y in classes] for x in classes]
    return [[max(0.0, 1 - math.exp(-sharpening * d)) + 1e-8 for d in row] for row in distances]


def softmax(row, temperature):
    e = [math.exp(v / temperature) for v in row]
    return [v / sum(e) for v in e]


def naive_transport(w_s, w_t, cost, reg, iterations):
    """Sinkhorn by loops over pairs of classes; the cost of the resulting plan."""
    n = len(w_s)
    kernel = [[math.exp(-c / reg) for c in row] for row in cost]
    u = [1 / n] * n
    for _ in range(iterations):
        v = [w_t[j] / (sum(kernel[i][j] * u[i] for i in range(n)) + 1e-8) for j in range(n)]
        u = [w_s[i] / (sum(kernel[i][j] * v[j] for j in range(n)) + 1e-8) for i in range(n)]
    return sum(u[i] * kernel[i][j] * v[j] * cost[i][j] for i in range(n) for j in range(n))


@pytest.mark.parametrize(("temperature", "sharpening"), [(8.0, 1.0), (2.0, 2.0)])
def test_terms_equal_naive_loops_without_the_label(make, make_batch, make_outputs, temperature, sharpening):
    method = make("wkd_l", temperature=temperature, sharpening=sharpening)
    features, labels = training_features(method.context)
    method = method.double()
    method.on_teacher_features(features.double(), labels)
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7)
    terms = method.losses(student, teacher, batch)
    assert list(terms) == ["ce", "target", "transport"]
    cost = naive_cost(features, labels, sharpening)
    transport, target = 0.0, 0.0
    for s, t, y in zip(student.logits.tolist(), teacher.logits.tolist(), batch.labels.tolist(), strict=True):
        others = [c for c in range(CLASSES) if c != y]
        w_s, w_t = (softmax([z[c] for c in others], temperature) for z in (s, t))
        transport += naive_transport(w_s, w_t, [[cost[i][j] for j in others] for i in others], 0.05, 10)
        target -= softmax(t, 1.0)[y] * math.log(softmax(s, 1.0)[y])
    assert terms["transport"].value.item() == pytest.approx(transport / 7, rel=1e-7)
    assert terms["target"].value.item() == pytest.approx(target / 7, rel=1e-9)
    assert [t.weight for t in terms.values()] == [1.0, 1.0, 600.0]


def test_costs_are_those_of_naive_kernel_alignment(make):
    method = make("wkd_l")
    features, labels = training_features(method.context)
    torch.testing.assert_close(method.cost, torch.tensor(naive_cost(features, labels, 1.0)), rtol=1e-5, atol=1e-6)
    assert torch.equal(method.cost.diagonal(), torch.full((CLASSES,), 1e-8))


@pytest.mark.parametrize("block", [1, 100, 2**24])
def test_kernel_alignment_does_not_depend_on_the_rows_held_at_once(monkeypatch, block):
    monkeypatch.setattr("methods.wkd_l.BLOCK", block)
    features = randn(4, 9, 3, seed=1)
    result = linear_cka(features)
    expected = [[naive_cka(x, y) for y in features.numpy()] for x in features.numpy()]
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-9, atol=1e-12)


def test_kernel_alignment_ignores_rotation_scale_and_shift_but_not_constant_features():
    features = randn(1, 8, 3, seed=2)[0]
    rotation = torch.linalg.qr(randn(3, 3, seed=3)).Q
    classes = torch.stack([features, 5 * features @ rotation + 2, torch.ones(8, 3).double()])
    expected = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).double()
    torch.testing.assert_close(linear_cka(classes), expected)


def test_features_by_class_are_as_many_as_the_smallest_class_has():
    labels = torch.tensor([1, 0, 1, 0, 1, 0, 0])
    features = torch.arange(7.0)[:, None]
    assert features_by_class(features, labels, 2)[:, :, 0].tolist() == [[1, 3, 5], [0, 2, 4]]
    with pytest.raises(ValueError, match="each needs two training images, one has 1"):
        features_by_class(features, torch.tensor([0, 0, 0, 1, 2, 2, 2]), 3)


def test_with_little_entropy_the_distance_is_that_of_linear_programming():
    cost = 0.1 * randn(4, 4, seed=1).abs().clamp(max=1)
    cost = cost + cost.T
    w_s, w_t = randn(3, 4, seed=2).softmax(1), randn(3, 4, seed=3).softmax(1)
    distances = transport_distance(w_s, w_t, torch.full((3, 4), 0.25).double(), cost, 0.01, 5000)
    marginals = np.array(
        [[i // 4 == k for i in range(16)] for k in range(4)] + [[i % 4 == k for i in range(16)] for k in range(4)]
    )
    for a, b, distance in zip(w_s, w_t, distances, strict=True):
        exact = linprog(cost.flatten().numpy(), A_eq=marginals, b_eq=np.concatenate([a, b]))
        assert exact.fun <= distance.item() + 1e-6
        assert distance.item() == pytest.approx(exact.fun, abs=0.01)


def test_moving_the_student_to_the_teacher_lowers_the_distance():
    cost = 0.4 * (1 - torch.eye(4, dtype=torch.float64)) + 1e-8
    start, w_t = torch.full((1, 4), 0.25).double(), torch.tensor([[0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)
    distances = [
        transport_distance((1 - x) * start + x * w_t, w_t, start, cost, 0.05, 10).item() for x in (0.0, 0.5, 1.0)
    ]
    # a mass of 0.45 moves, then half of it, at a cost of 0.4
    assert distances == pytest.approx([0.18, 0.09, 0.0], abs=0.02)


def test_gradients_equal_finite_differences(make, make_batch, make_outputs):
    method, teacher, batch = make("wkd_l", temperature=2.0).double(), make_outputs(3, 2), make_batch(3)

    def loss(z):
        student = make_outputs(3, 1)
        student.logits = z
        terms = method.losses(student, teacher, batch)
        return terms["target"].value + terms["transport"].value

    assert torch.autograd.gradcheck(loss, make_outputs(3, 1, grad=True).logits)


def test_the_weight_of_the_transport_decays_after_its_start(make, make_batch, make_outputs):
    method = make("wkd_l", decay_start=12.5).double()  # of 20 epochs
    weights = [
        [t.weight for t in method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4, epoch=e)).values()]
        for e in (12, 15, 20)
    ]
    assert weights == [[1, 1, 600], [1, 1, pytest.approx(600 * (1 + math.cos(math.pi / 3)) / 2)], [1, 1, 0]]


def test_a_method_that_received_no_features_has_no_finite_loss(make_options, make_batch, make_outputs):
    implementation, options = make_options("wkd_l")
    shapes = Shapes(((2, 8, 8),), 6)
    method = implementation(options, Context(CLASSES, shapes, shapes, torch.arange(40) % CLASSES, 20)).double()
    terms = method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4))
    assert terms["transport"].value.isnan()


def test_a_checkpoint_holds_the_costs(make, make_options):
    method = make("wkd_l")
    implementation, options = make_options("wkd_l")
    resumed = implementation(options, method.context)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(resumed.cost, method.cost)


def test_two_classes_leave_nothing_to_transport(make, make_batch, make_outputs):
    shapes = Shapes(((2, 8, 8),), 6)
    method = make("wkd_l", Context(2, shapes, shapes, torch.arange(40) % 2, 20)).double()
    batch, student, teacher = make_batch(4), make_outputs(4), make_outputs(4, 9)
    batch.labels %= 2
    student.logits, teacher.logits = student.logits[:, :2], teacher.logits[:, :2]
    assert method.losses(student, teacher, batch)["transport"].value.item() == pytest.approx(0, abs=1e-6)
