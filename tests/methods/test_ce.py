"""Cross-entropy alone."""

import math

import pytest


@pytest.mark.parametrize("seed", range(3))
def test_the_term_is_the_mean_negative_log_probability_of_the_label(make, make_batch, make_outputs, seed):
    student, batch = make_outputs(7, seed), make_batch(7, seed)
    expected = 0.0
    for row, label in zip(student.logits.tolist(), batch.labels.tolist(), strict=True):
        expected -= math.log(math.exp(row[label]) / sum(map(math.exp, row))) / 7
    terms = make("ce").losses(student, None, batch)
    assert list(terms) == ["ce"]
    assert terms["ce"].value.item() == pytest.approx(expected, rel=1e-12)
    assert terms["ce"].weight == 1


def test_requires_no_teacher_and_has_no_state(make):
    method = make("ce")
    assert method.requires.teacher.empty
    assert not method.state_dict()
