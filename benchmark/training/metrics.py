"""Metrics of a network's logits on a test set. Tensors of one call are on one device; shares are in per cent."""

from torch import Tensor


def top_k(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """Return the share of samples whose label [N] is among the k largest of `logits` [N, C], in per cent.

    For k = 1 the first of equal logits is the prediction, as everywhere in this code; bf16 logits do tie.
    """
    if k == 1:
        return 100.0 * (logits.argmax(1) == labels).sum().item() / len(labels)
    hits = (logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1)
    return 100.0 * hits.sum().item() / len(hits)


def accuracies(split: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return `<split>_top1` and, with more than five classes, `<split>_top5` of logits [N, C], in per cent."""
    measures = {f"{split}_top1": top_k(logits, labels)}
    if logits.shape[1] > 5:
        measures[f"{split}_top5"] = top_k(logits, labels, 5)
    return measures


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Return the share of samples for which both logits [N, C] predict the same class, in per cent."""
    return 100.0 * (student.argmax(1) == teacher.argmax(1)).sum().item() / len(student)


def class_correlation(logits: Tensor) -> Tensor:
    """Return the Pearson correlation [C, C] of the classes' logits [N, C] over the samples; 0 for a constant class."""
    centered = logits.double() - logits.double().mean(0)
    unit = centered / centered.norm(dim=0).clamp_min(1e-12)
    return unit.T @ unit


def correlation_distance(student: Tensor, teacher: Tensor) -> float:
    """Return the distance of two class correlation matrices R [C, C]: ||R_t − R_s||_F / C."""
    return ((teacher - student).norm() / len(student)).item()
