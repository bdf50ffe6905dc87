"""The published form of CRD, with gathered bank rows: the loss and gradients of the fused kernels."""

import copy

import pytest
import torch

from benchmark.commands.reference_crd import GatheringCRD
from methods.contract import Batch, Context, Outputs, Shapes
from methods.crd import CRD, CRDOptions

LABELS = torch.arange(40) % 5  # 5 classes of 8 samples: 32 negatives each


def build(negatives: int) -> tuple[CRD, GatheringCRD]:
    shapes = Shapes(((2, 8, 8),), 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fused = CRD(CRDOptions(1.0, 0.8, 4, negatives, 0.07, 0.5, "exact"), Context(5, shapes, shapes, LABELS, 20))
    gathering = copy.deepcopy(fused.double())
    gathering.__class__ = GatheringCRD
    return fused, gathering


def make_batch(indices: list[int]) -> Batch:
    positions = torch.tensor(indices)
    return Batch([], LABELS[positions], positions, 1, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("negatives", "distinct"), [(12, True), (50, False)])
def test_negatives_are_of_other_classes_and_repeat_only_where_there_are_too_few(negatives, distinct):
    batch = make_batch([3, 11, 29])
    drawn = build(negatives)[1].negatives(batch)
    assert drawn.shape == (3, negatives)
    assert (LABELS[drawn] != batch.labels[:, None]).all()
    assert all((len(set(row)) == negatives) is distinct for row in drawn.tolist())


def test_loss_and_gradients_equal_those_of_the_fused_kernels():
    fused, gathering = build(12)
    batch = make_batch([3, 11, 29])
    drawn = gathering.negatives(batch)
    counts = torch.zeros(40, 3, dtype=torch.float64).scatter_(0, drawn.T, 1.0)
    random = torch.Generator().manual_seed(1)
    pooled = [torch.randn(3, 6, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    logits = torch.randn(3, 5, generator=random, dtype=torch.float64)
    results = []
    for method, negatives in ((fused, counts), (gathering, drawn)):
        method.negatives = lambda _, negatives=negatives: negatives
        for _ in range(2):  # the second step uses the Z of the first
            terms = method.losses(Outputs(logits, pooled[0]), Outputs(None, pooled[1]), batch)
            loss = sum(t.weight * t.value for t in terms.values())
            results.append([loss, *torch.autograd.grad(loss, [*pooled, *method.parameters()])])
            with torch.no_grad():
                method.on_step_end()
    for step in (0, 1):
        for a, b in zip(results[step], results[step + 2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
