"""What a run that several processes train cannot do, and what of it is part of the run's identity."""

import pytest

from benchmark.errors import UserError
from benchmark.grid.distribution import smallest_batch
from tests.helpers import plan_of, student_runs

LOCAL = "batch_norm_statistics=local"


def distributed(processes: int) -> list[str]:
    return ["distributed=true", f"processes={processes}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*distributed(17)], "processes is 17: the smallest batch of 48 training images has 16; give fewer"),
        ([*distributed(4), "recipe.batch_size=45"], "the smallest batch of 48 training images has 3;"),
        ([*distributed(9), LOCAL], "has 16, two in each for statistics of its own;"),
        ([*distributed(4), "dataset.test_size=3"], "processes is 4: only 3 images are evaluated; give fewer"),
        ([*distributed(4), "recipe.batch_size=20", "teacher.train_size=null", "dataset.validation=0.125"],
         "smallest batch of 42 training images has 2"),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_divided_are_refused(tiny, words, message):
    with pytest.raises(UserError) as error:
        plan_of([*tiny, "methods=ce", *words])
    assert message in str(error.value)


@pytest.mark.parametrize(("images", "batch_size", "smallest"), [(48, 16, 16), (50, 16, 2), (49, 16, 16), (15, 15, 15)])
def test_the_smallest_batch_is_the_last_one_unless_it_has_one_image(images, batch_size, smallest):
    assert smallest_batch(images, batch_size) == smallest


def test_networks_that_draw_random_numbers_are_refused(tiny):
    module = "tests.benchmark.own_networks"
    words = [
        *tiny,
        *distributed(2),
        "methods=ce",
        f"network.drop={module}:dropping",
        f"network.none={module}:dropping_nothing",
    ]
    plan_of([*words, "pair=none-none"])
    for pair in ("drop-none", "none-drop"):
        with pytest.raises(UserError, match="network drop draws random numbers in training, as dropout does"):
            plan_of([*words, f"pair={pair}"])
    plan_of([*tiny, f"network.drop={module}:dropping", "pair=drop-drop", "methods=ce"])


def test_identities_hold_neither_processes_nor_their_number_but_local_statistics(finished):
    identities = {}
    for name, more in {
        "one": [], "two": distributed(2), "three": distributed(3), "single": [*distributed(1), LOCAL],
        "two, local": [*distributed(2), LOCAL], "three, local": [*distributed(3), LOCAL],
    }.items():  # fmt: skip
        plan = plan_of([*finished, *more])
        identities[name] = {plan.teachers["resnet14"].identity, *(run.identity for run in plan.students_alone())}
    same = [identities.pop(name) for name in ("one", "two", "three", "single")]
    assert all(of_runs == same[0] for of_runs in same)
    assert not identities["two, local"] & identities["three, local"]
    assert all(not of_runs & same[0] for of_runs in identities.values())


def test_local_statistics_are_a_changed_setting(finished):
    run = student_runs(plan_of([*finished, *distributed(2)]))["kd"]
    assert run.changed_settings == tuple(s for s in run.changed_settings if s != "batch_norm.statistics")
    (local, *_) = plan_of([*finished, *distributed(2), LOCAL]).students_alone()
    assert "batch_norm.statistics" in local.changed_settings
    assert local.config["batch_norm"] == {"statistics": "local", "processes": 2}
