"""Schedules, optimizers and averaged weights of the recipes, compared with timm's and with torch's."""

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from benchmark.config.compose import load_config
from benchmark.grid.identity import network_recipe
from benchmark.networks import build
from benchmark.training.optimizers import Schedule, WeightAverage, make_optimizer, reset_state

SGD = Schedule(0.1, 0.9, False, 1e-4, [3, 6], 0.1)
ADAMW = Schedule(5e-4, 0.0, False, 0.05, [], 0.1, optimizer="adamw", decay_vectors=False)


def recipe_of(*words: str) -> dict:
    return network_recipe(load_config(["profile=short", *words]), "resnet20")


def rates(recipe: dict) -> list[float]:
    schedule = Schedule.from_recipe(recipe)
    return [schedule.learning_rate(epoch) for epoch in range(1, recipe["epochs"] + 1)]


# ------------------------------------------------------------ recipes as published


@pytest.mark.parametrize(
    ("name", "epochs", "lr", "steps", "decay"),
    [("imagenet", 100, 0.1, (30, 60, 90), 1e-4), ("tinyimagenet", 200, 0.2, (60, 120, 160), 5e-4)],
)
def test_the_rate_falls_by_ten_at_the_published_epochs(name, epochs, lr, steps, decay):
    recipe = recipe_of(f"recipe={name}", "recipe.epochs=" + str(epochs))
    expected = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.zeros(1)], lr), list(steps), 0.1)
    for rate in rates(recipe):
        assert rate == pytest.approx(expected.get_last_lr()[0])
        expected.optimizer.step()
        expected.step()
    assert (recipe["weight_decay"], recipe["momentum"], recipe["batch_size"]) == (decay, 0.9, 256)


def test_the_cosine_with_its_warm_up_is_timms():
    scheduler = pytest.importorskip("timm.scheduler")
    recipe = recipe_of("recipe=imagenet_vit", "dataset=imagenet", "recipe.epochs=300")
    optimizer = torch.optim.SGD([torch.zeros(1)], 5e-4)
    cosine = scheduler.CosineLRScheduler(optimizer, 300, lr_min=1e-6, warmup_t=20, warmup_lr_init=5e-7)
    for epoch, rate in enumerate(rates(recipe), start=1):
        cosine.step(epoch - 1)  # it counts from 0
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_the_cifar_recipe_holds_no_younger_option():
    """Its identities are those of runs made before these options existed."""
    assert recipe_of().keys() == {
        "epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "milestones", "gamma"
    }  # fmt: skip
    assert "ema_decay" in recipe_of("recipe.ema_decay=0.9") and "smoothing" in recipe_of("recipe.smoothing=0.1")


# ------------------------------------------------------------ optimizers


def networks():
    torch.manual_seed(0)
    network = build("resnet8", 4)
    return network, copy.deepcopy(network), nn.Linear(3, 3)


def take_steps(network, optimizer, steps=3):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        images, labels = torch.randn(6, 3, 16, 16, generator=generator), torch.arange(6) % 4
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images).logits, labels).backward()
        optimizer.step()


def equal(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> bool:
    return all(
        torch.allclose(x, y, rtol=tolerance, atol=tolerance)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_steps_of_sgd_are_torchs():
    ours, reference, layer = networks()
    take_steps(ours, make_optimizer(SGD, ours, layer, "cpu"))
    take_steps(reference, torch.optim.SGD(reference.parameters(), 0.1, 0.9, weight_decay=1e-4))
    assert equal(ours, reference)


def test_steps_of_adamw_are_torchs_with_timms_groups():
    factory = pytest.importorskip("timm.optim")
    ours, reference, layer = networks()
    take_steps(ours, make_optimizer(ADAMW, ours, layer, "cpu"))
    groups = factory.param_groups_weight_decay(reference, 0.05)
    take_steps(reference, torch.optim.AdamW(groups, 5e-4))
    assert equal(ours, reference)


def test_embeddings_of_positions_are_not_decayed():
    pytest.importorskip("timm")
    vit = build("timm/test_vit", 4, 64)
    optimizer = make_optimizer(ADAMW, vit, nn.Linear(3, 3), "cpu")
    decayed, kept = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    named = dict(vit.foreign_module.named_parameters())
    assert {id(named["pos_embed"]), id(named["cls_token"])} <= kept and id(named["head.weight"]) in decayed
    assert len(decayed) + len(kept) == len(named) + 2, "the layer of the method is trained, too"
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_the_gradient_is_clipped_to_a_norm_over_all_parameters():
    schedule = Schedule(1.0, 0.0, False, 0.0, [], 0.1, clip_norm=0.5)
    network, before, layer = networks()
    optimizer = make_optimizer(schedule, network, layer, "cpu")
    take_steps(network, optimizer, steps=1)
    moved = [(p - q).square().sum() for p, q in zip(network.parameters(), before.parameters(), strict=True)]
    assert torch.stack(moved).sum().sqrt().item() == pytest.approx(0.5, rel=1e-4), "lr 1 moves by the clipped gradient"


@pytest.mark.parametrize("schedule", [SGD, ADAMW])
def test_a_reset_optimizer_takes_the_steps_of_a_new_one(schedule):
    used, fresh, layer = networks()
    optimizer = make_optimizer(schedule, used, layer, "cpu")
    take_steps(used, optimizer)
    used.load_state_dict(fresh.state_dict())
    reset_state(optimizer)
    take_steps(used, optimizer)
    take_steps(fresh, make_optimizer(schedule, fresh, layer, "cpu"))
    assert equal(used, fresh)


@pytest.mark.parametrize("schedule", [SGD, ADAMW])
def test_the_state_of_an_optimizer_has_its_form_before_the_first_step(schedule):
    """So a checkpoint is recognized by a trainer that has not taken a step."""
    network, _, layer = networks()
    optimizer = make_optimizer(schedule, network, layer, "cpu")
    form = {i: {k: v.shape for k, v in state.items()} for i, state in optimizer.state_dict()["state"].items()}
    take_steps(network, optimizer)
    assert form == {i: {k: v.shape for k, v in state.items()} for i, state in optimizer.state_dict()["state"].items()}


# ------------------------------------------------------------ averaged weights


def test_the_average_follows_the_weights_after_every_step():
    network, reference, layer = networks()
    optimizer = make_optimizer(SGD, network, layer, "cpu")
    average = WeightAverage(network, 0.75, optimizer)
    expected = {k: v.double().clone() for k, v in reference.state_dict().items()}
    for _ in range(3):
        take_steps(network, optimizer, steps=1)
        expected = {k: 0.75 * expected[k] + 0.25 * v.double() for k, v in network.state_dict().items()}
    for key, value in average.network.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[key], rtol=1e-5, atol=1e-6), key
        else:
            assert torch.equal(value, network.state_dict()[key])
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())


def test_every_recipe_can_be_composed_and_has_comments():
    from benchmark import usage
    from benchmark.config.files import CONF, group_names

    for name in group_names("recipe"):
        assert OmegaConf.load(CONF / "recipe" / f"{name}.yaml")
        assert recipe_of(f"recipe={name}", "dataset=imagenet")["epochs"] == 20  # of the profile
        assert all(comment for _, _, comment in usage.yaml_keys(CONF / "recipe" / f"{name}.yaml"))
