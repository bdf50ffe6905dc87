"""Properties of every method: its YAML, its requirements, and finite losses and gradients for unusual outputs."""

import copy
import dataclasses
import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import methods
from methods.contract import Outputs, weighted_sum
from tests.methods.conftest import NAMES

# one YAML per implementation: presets that differ in values alone share their code
REPRESENTATIVES = sorted(set(methods.available()) | {"crd_kd", "fitnet_kd"})
FIXED_KEYS = {"name", "implementation", "about", "pairs", "datasets", "tune"}

PUBLISHED_DEFAULTS = {
    "ce": {},
    "kd": {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9, "standardise": False},
    # 20 of 240 epochs in a run of 20
    "dkd": {
        "temperature": 4.0, "ce_weight": 1.0, "alpha": 1.0, "beta": 8.0, "warmup": pytest.approx(20 / 12),
        "standardise": False,
    },
    "crd": {
        "ce_weight": 1.0, "crd_weight": 0.8, "feature_dim": 128, "negatives": 16384, "temperature": 0.07,
        "momentum": 0.5, "mode": "exact",
    },
    "fitnet": {"ce_weight": 1.0, "hint_weight": 100.0, "hint_layer": 2},
    "clkd_letter": {
        "lambda_ce": 0.1, "mu": 0.5, "beta": 2.0, "nu": 0.4, "nmse_reduction": "vector", "cc_values": "logits",
        "cc_temperature": 4.0, "cc_shape": "class", "cc_center": "batch", "cc_scale": "none", "cc_div": "C-1",
        "cc_norm": "fro2", "cc_reduction": "mean", "cc_warmup": 0.0,
    },
}  # fmt: skip
DKD_BETA = {
    8: "resnet32x4-resnet8x4 resnet32x4-ShuffleV1 resnet32x4-ShuffleV2 ResNet50-MobileNetV2 wrn40_2-ShuffleV1",
    6: "vgg13-vgg8 vgg13-MobileNetV2 wrn40_2-wrn16_2 wrn40_2-wrn40_1 ResNet50-wrn16_2",
    2: "resnet56-resnet20 resnet110-resnet32",
}


# ---------------------------------------------------------------- YAML files


def option_names(implementation):
    return {f.name for f in dataclasses.fields(methods.load(implementation).Options)}


def test_yaml_files_state_every_option_and_no_other(read_yaml):
    for name in NAMES:
        tree = read_yaml(name)
        options = option_names(tree["implementation"])
        assert tree["name"] == name
        assert set(tree) - FIXED_KEYS == options, name
        for part in tree["implementation"].split("+") if "+" in tree["implementation"] else ():
            assert set(tree[part]) - FIXED_KEYS == option_names(part), name
        of_datasets = tree.get("datasets", {}).values()
        of_pairs = [pair for part in (tree, *of_datasets) for pair in part.get("pairs", {}).values()]
        recipes = [part["recipe"] for part in (*of_datasets, *of_pairs) if "recipe" in part]
        keys = {key.partition(".")[0] for values in (*of_datasets, *of_pairs) for key in values}
        assert keys - {"recipe", "pairs"} <= options, name
        assert all(set(recipe) <= {"batch_size", "lr"} for recipe in recipes), name


def test_yaml_files_name_their_source_under_distinct_titles(read_yaml):
    about = {name: read_yaml(name)["about"] for name in NAMES}
    for name, entry in about.items():
        assert set(entry) - {"uncertain"} == {"title", "paper", "authors", "venue", "arxiv", "year", "family"}, name
        assert entry["family"] in ("baseline", "logits", "features", "relations"), name
        assert entry["title"], name
    assert len({entry["title"] for entry in about.values()}) == len(NAMES)


def test_every_implementation_has_a_yaml_of_its_name():
    assert set(methods.available()) <= set(NAMES)


@pytest.mark.parametrize("name", PUBLISHED_DEFAULTS)
def test_defaults_are_the_published_values(read_yaml, name):
    assert {k: v for k, v in read_yaml(name).items() if k not in FIXED_KEYS} == PUBLISHED_DEFAULTS[name]


def test_dkd_has_the_published_beta_of_each_pair(read_yaml):
    expected = {pair: {"beta": float(beta)} for beta, pairs in DKD_BETA.items() for pair in pairs.split()}
    assert read_yaml("dkd")["pairs"] == expected


def test_every_method_states_its_provenance():
    for name in methods.available():
        assert importlib.import_module(f"methods.{name}").PROVENANCE.strip(), name


# ---------------------------------------------------------------- training steps


# terms that may be negative by definition: a negative log-likelihood of a continuous quantity
SIGNED_TERMS = {"vid"}
# terms that are cross-entropies with the teacher: their minimum is its entropy
CROSS_ENTROPIES = {"nontarget", "sce"}


def tensors(outputs):
    """List all tensors of outputs; those of the further views come last."""
    maps = *outputs.maps.values(), *outputs.pre_activations.values(), *outputs.class_maps.values()
    further = (tensor for view in outputs.further_views for tensor in tensors(view))
    return [outputs.logits, outputs.pooled, *maps, outputs.last_map, *further]


def gradients(outputs):
    return [tensor.grad for tensor in tensors(outputs) if tensor.grad is not None]


def backward_pass(method, student, teacher, batch):
    """Run one training step without an optimizer; return the terms."""
    student_needs, teacher_needs = method.requires.needs(batch.epoch)
    terms = method.losses(student.select(student_needs), teacher.select(teacher_needs), batch)
    weighted_sum(terms).backward()
    with torch.no_grad():
        method.on_step_end()
    return terms


def epochs(method):
    """Return one epoch of each stage of the training."""
    return [0, 1] if method.requires.init_epochs else [1]


EDGES = {
    "plain": torch.clone,
    "huge": lambda x: 1e4 * x.sign(),
    "tiny": lambda x: 1e-12 * x,
    "zero": torch.zeros_like,
    "constant rows": lambda x: torch.ones_like(x) * x[:, :1],
    "constant column": lambda x: torch.cat([torch.ones_like(x[:, :1]), x[:, 1:]], 1),
    "zero column": lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1),
    "zero row": lambda x: torch.cat([torch.zeros_like(x[:1]), x[1:]]),
    "equal rows": lambda x: x[:1].expand_as(x).clone(),
}


def altered(outputs, edge, grad):
    """Apply an edge to every tensor of outputs; the results are leaves."""

    def change(value):
        if isinstance(value, dict):
            return {k: change(v) for k, v in value.items()}
        return EDGES[edge](value).requires_grad_(grad)

    fields = (change(getattr(outputs, f.name)) for f in dataclasses.fields(Outputs) if f.name != "further_views")
    return Outputs(*fields, [altered(view, edge, grad) for view in outputs.further_views])


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_finite_for_unusual_outputs(make, make_batch, make_outputs, name):
    """Edges of both networks, batch sizes and precisions are mixed; each side meets each edge about six times."""
    template = make(name)
    batch_norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in template.modules())

    @settings(max_examples=50)  # derandomized, see tests/conftest.py
    @given(
        student_edge=st.sampled_from(list(EDGES)),
        teacher_edge=st.sampled_from(list(EDGES)),
        n=st.sampled_from([8, 3, 1]),
        dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    )
    def check(student_edge, teacher_edge, n, dtype):
        for epoch in epochs(template):
            method = copy.deepcopy(template)
            student = altered(make_outputs(n, 1, dtype), student_edge, grad=True)
            teacher = altered(make_outputs(n, 2, dtype), teacher_edge, grad=False)
            terms = backward_pass(method, student, teacher, make_batch(n, epoch=epoch))
            for term_name, term in terms.items():
                assert term.value.shape == ()
                assert term.value.isfinite(), term_name
                assert term.value >= -1e-5 or term_name in SIGNED_TERMS, term_name
                assert term.weight >= 0
            reached = gradients(student)
            assert all(g.dtype == dtype for g in reached)
            reached += [p.grad for p in method.parameters() if p.grad is not None]
            assert reached
            assert all(g.isfinite().all() for g in reached)
            assert all(v.isfinite().all() for v in method.state_dict().values())
            # large gradients are legitimate for a fourth power of huge values, and through two or more batch norms of
            # constant channels, each of which divides the gradient by √eps
            if "huge" not in (student_edge, teacher_edge) and batch_norms < 2:
                assert all(g.abs().max() < (1e4 if batch_norms else 1e3) for g in reached)

    check()


# excluded: methods whose target is not the teacher's output (crld, kdpp, loca, rld, ttm, wkd_l, wttm), cross-entropies
# (gkl, nkd)
ZERO_AT_TEACHER = (
    "kd", "dkd", "clkd", "lskd", "dist", "ldrld", "ctkd", "normkd", "sdd", "mlld", "cskd", "dot", "abkd", "gdkd", "skd",
)  # fmt: skip


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(ZERO_AT_TEACHER) and n != "kdpp"])
def test_logit_losses_and_gradients_vanish_where_the_student_equals_the_teacher(make, make_batch, make_outputs, name):
    student, teacher = make_outputs(8, 1, torch.float32, grad=True), make_outputs(8, 1, torch.float32)
    terms = make(name).losses(student, teacher, make_batch(8))
    distillation = [t for k, t in terms.items() if k != "ce"]
    assert [t.value.item() for t in distillation] == pytest.approx([0] * len(distillation), abs=1e-4)  # DIST has an ε
    sum(t.weight * t.value for t in distillation).backward()
    assert gradients(student)
    assert all(g.abs().max() < 1e-4 for g in gradients(student))


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_training_trains_all_parameters_and_leaves_the_global_generator_alone(make, make_batch, make_outputs, name):
    method, state = make(name), torch.random.get_rng_state()
    for epoch in epochs(method):  # gradients add up: a parameter may be trained in one stage only
        student, teacher = make_outputs(8, 1, torch.bfloat16, grad=True), make_outputs(8, 2, torch.bfloat16)
        backward_pass(method, student, teacher, make_batch(8, epoch=epoch))
        assert all(g.dtype == torch.bfloat16 and g.abs().max() > 0 for g in gradients(student))
        assert gradients(student) or epoch < 1
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_terms_do_not_depend_on_outputs_that_are_not_required(make, make_batch, make_outputs, name):
    for epoch in epochs(make(name)):
        values = []
        for select in (True, False):
            method = make(name)
            student, teacher = make_outputs(8, 1, torch.float32), make_outputs(8, 2, torch.float32)
            if select:
                student_needs, teacher_needs = method.requires.needs(epoch)
                student, teacher = student.select(student_needs), teacher.select(teacher_needs)
            terms = method.losses(student, teacher, make_batch(8, epoch=epoch))
            values.append([t.value.item() for t in terms.values()])
        assert values[0] == values[1]


@pytest.mark.parametrize("name", NAMES)
def test_optimization_lowers_the_loss(make, make_batch, make_outputs, name):
    for epoch in epochs(make(name)):
        method, teacher, batch = make(name), make_outputs(8, 2, torch.float32), make_batch(8, epoch=epoch)
        student = make_outputs(8, 1, torch.float32, grad=True)
        optimizer = torch.optim.Adam([*tensors(student), *method.parameters()], 0.1)
        totals = []
        for _ in range(30):
            optimizer.zero_grad()
            terms = backward_pass(method, student, teacher, batch)
            optimizer.step()
            totals.append(sum(t.weight * t.value.item() for t in terms.values()))
        assert totals[0] > 0
        assert totals[-1] < (0.9 if CROSS_ENTROPIES & set(terms) else 0.8) * totals[0]
