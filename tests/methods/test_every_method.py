"""What holds for every method: its YAML, and its behaviour at the edges of what networks give."""

import dataclasses
from pathlib import Path

import pytest
import torch

import methods
from methods.contract import Outputs

NAMES = sorted(p.stem for p in (Path(__file__).resolve().parents[2] / "conf" / "method").glob("*.yaml"))
FIXED = {"name", "implementation", "about", "pairs", "datasets", "tune"}

PUBLISHED = {
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
    "clkd": {
        "lambda_ce": 0.1, "mu": 0.5, "beta": 2.0, "nu": 0.4, "nmse_reduction": "vector", "cc_shape": "class",
        "cc_center": "batch", "cc_div": "C-1", "cc_norm": "fro2",
    },
}  # fmt: skip
DKD_BETA = {
    8: "resnet32x4-resnet8x4 resnet32x4-ShuffleV1 resnet32x4-ShuffleV2 ResNet50-MobileNetV2 wrn40_2-ShuffleV1",
    6: "vgg13-vgg8 vgg13-MobileNetV2 wrn40_2-wrn16_2 wrn40_2-wrn40_1 ResNet50-wrn16_2",
    2: "resnet56-resnet20 resnet110-resnet32",
}


def option_names(tree):
    return {f.name for f in dataclasses.fields(methods.load(tree["implementation"]).Options)}


def parts(tree):
    """A YAML's parts: itself, or those of a combination."""
    return [tree[n] for n in tree["implementation"].split("+")] if "+" in tree["implementation"] else [tree]


@pytest.mark.parametrize("name", NAMES)
def test_yaml_states_every_option_and_no_other(read_yaml, name):
    tree = read_yaml(name)
    assert set(tree) - FIXED == option_names(tree)
    assert tree["name"] == name
    for part in parts(tree):
        assert set(part) - FIXED == option_names(part)
    for options in [*tree.get("pairs", {}).values(), *tree.get("datasets", {}).values()]:
        assert set(options) <= option_names(tree)


@pytest.mark.parametrize("name", NAMES)
def test_yaml_tells_the_source(read_yaml, name):
    about = read_yaml(name)["about"]
    assert set(about) - {"uncertain"} == {"title", "paper", "authors", "venue", "arxiv", "year", "family"}
    assert about["family"] in ("baseline", "logits", "features", "relations")
    assert about["title"]


def test_titles_differ(read_yaml):
    titles = [read_yaml(name)["about"]["title"] for name in NAMES]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", methods.available())
def test_every_implementation_has_a_yaml_of_its_name(name):
    assert name in NAMES


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_published_ones(read_yaml, name):
    assert {k: v for k, v in read_yaml(name).items() if k not in FIXED} == PUBLISHED[name]


def test_dkd_has_the_published_beta_of_each_pair(read_yaml):
    expected = {pair: {"beta": float(beta)} for beta, pairs in DKD_BETA.items() for pair in pairs.split()}
    assert read_yaml("dkd")["pairs"] == expected


# terms that may be negative by definition: a negative log-likelihood of a continuous quantity
SIGNED = {"vid"}
# terms that are cross-entropies with the teacher: they fall no further than its entropy
SOFT = {"nontarget"}


def leaves(outputs):
    """All tensors of outputs but the norms; the second view's come last."""
    if outputs is None:
        return []
    maps = *outputs.maps.values(), *outputs.preact.values(), *outputs.cams.values()
    return [outputs.logits, outputs.pooled, *maps, outputs.final, *leaves(outputs.second)]


def run(method, student, teacher, batch):
    """One backward pass as in training. Returns the terms and the gradients that reached the student's outputs."""
    needs = method.student_needs, method.teacher_needs
    terms = method.losses(student.only(needs[0]), teacher.only(needs[1]), batch)
    sum(t.weight * t.value for t in terms.values()).backward()
    with torch.no_grad():
        method.after_step()
    return terms, [leaf.grad for leaf in leaves(student) if leaf.grad is not None]


def stages(method):
    """An epoch of each stage of the training."""
    return [0, 1] if method.pre_epochs else [1]


def check_finite(method, student, teacher, batch):
    """Check one backward pass of a new method; returns the gradients of the student's outputs and the parameters."""
    terms, gradients = run(method, student, teacher, batch)
    assert terms
    for name, term in terms.items():
        assert term.value.shape == ()
        assert term.value.isfinite(), name
        assert term.value >= -1e-5 or name in SIGNED, name
        assert term.weight >= 0
    gradients += [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    assert all(v.isfinite().all() for v in method.state_dict().values())
    return gradients


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [8, 3, 1])
def test_any_batch_size(make, make_batch, make_outputs, name, n):
    for epoch in stages(make(name)):
        student, teacher = make_outputs(n, 1, torch.float32, grad=True), make_outputs(n, 2, torch.float32)
        check_finite(make(name), student, teacher, make_batch(n, epoch=epoch))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_in_bfloat16(make, make_batch, make_outputs, name):
    reached = []
    for epoch in stages(make(name)):
        student, teacher = make_outputs(8, 1, torch.bfloat16, grad=True), make_outputs(8, 2, torch.bfloat16)
        check_finite(make(name), student, teacher, make_batch(8, epoch=epoch))
        reached += [leaf.grad for leaf in leaves(student) if leaf.grad is not None]
    assert reached
    assert all(g.dtype == torch.bfloat16 and g.abs().max() > 0 for g in reached)


EDGES = {
    "huge": lambda x: 1e4 * x.sign(),
    "tiny": lambda x: 1e-12 * x,
    "zero": torch.zeros_like,
    "constant rows": lambda x: torch.ones_like(x) * x[:, :1],
    "constant column": lambda x: torch.cat([torch.ones_like(x[:, :1]), x[:, 1:]], 1),
    "zero column": lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1),
    "zero row": lambda x: torch.cat([torch.zeros_like(x[:1]), x[1:]]),
    "equal rows": lambda x: x[:1].expand_as(x).clone(),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
@pytest.mark.parametrize("edge", EDGES)
def test_unusual_outputs_have_a_finite_loss_and_gradient(make, make_batch, make_outputs, name, side, edge):
    def outputs(seed, changed, grad):
        def altered(value):
            return (EDGES[edge](value) if changed else value.clone()).requires_grad_(grad)

        def one(view):
            maps, preact, cams = ({k: altered(v) for k, v in m.items()} for m in (view.maps, view.preact, view.cams))
            logits, pooled, final = map(altered, (view.logits, view.pooled, view.final))
            return Outputs(logits, pooled, maps, preact, final, cams, view.norms)

        plain = make_outputs(8, seed, torch.float32)
        found = one(plain)
        found.second = one(plain.second)
        return found

    for epoch in stages(make(name)):
        student, teacher = outputs(1, side in ("student", "both"), True), outputs(2, side in ("teacher", "both"), False)
        method = make(name)
        gradients = check_finite(method, student, teacher, make_batch(8, epoch=epoch))
        # large are meant to be: the gradient of a fourth power where all is huge, and that of batch norms on top of
        # each other where nothing varies, as each divides it by √eps
        if edge != "huge" and sum(isinstance(m, torch.nn.BatchNorm2d) for m in method.modules()) < 2:
            assert all(g.abs().max() < 1e3 for g in gradients)


# not those whose target is not the teacher's own output (loca, rld, ttm, wttm), nor cross-entropies (nkd)
AT_REST = ("kd", "dkd", "clkd", "lskd", "dist", "ldrld", "ctkd", "normkd", "sdd", "mlld", "cskd", "dot")


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(AT_REST)])
def test_logit_methods_are_at_rest_where_the_student_equals_the_teacher(make, make_batch, make_outputs, name):
    student, teacher = make_outputs(8, 1, torch.float32, grad=True), make_outputs(8, 1, torch.float32)
    terms = make(name).losses(student, teacher, make_batch(8))
    rest = [t for k, t in terms.items() if k != "ce"]
    assert [t.value.item() for t in rest] == pytest.approx([0] * len(rest), abs=1e-4)  # DIST has an ε
    sum(t.weight * t.value for t in rest).backward()
    gradients = [leaf.grad for leaf in leaves(student) if leaf.grad is not None]
    assert gradients
    assert all(g.abs().max() < 1e-4 for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_all_parameters_learn(make, make_batch, make_outputs, name):
    method = make(name)
    for epoch in stages(method):  # gradients add up: a parameter may learn in one stage only
        student, teacher = make_outputs(8, 1, torch.float32, grad=True), make_outputs(8, 2, torch.float32)
        run(method, student, teacher, make_batch(8, epoch=epoch))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_draws_nothing_from_the_global_generator(make, make_batch, make_outputs, name):
    method, before = make(name), torch.random.get_rng_state()
    for epoch in stages(method):
        student, teacher = make_outputs(8, 1, torch.float32, grad=True), make_outputs(8, 2, torch.float32)
        run(method, student, teacher, make_batch(8, epoch=epoch))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_works_on_just_what_it_says_it_needs(make, make_batch, make_outputs, name):
    # `only` leaves all else out; the terms must not change when more is handed over
    for epoch in stages(make(name)):
        values = []
        for pare in (True, False):
            method = make(name)
            student, teacher = make_outputs(8, 1, torch.float32), make_outputs(8, 2, torch.float32)
            if pare:
                student, teacher = student.only(method.student_needs), teacher.only(method.teacher_needs)
            terms = method.losses(student, teacher, make_batch(8, epoch=epoch))
            values.append([t.value.item() for t in terms.values()])
        assert values[0] == values[1]


@pytest.mark.parametrize("name", NAMES)
def test_descent_lowers_the_distillation_terms(make, make_batch, make_outputs, name):
    for epoch in stages(make(name)):
        method, teacher, batch = make(name), make_outputs(8, 2, torch.float32), make_batch(8, epoch=epoch)
        student = make_outputs(8, 1, torch.float32, grad=True)
        optimiser = torch.optim.Adam([*leaves(student), *method.parameters()], 0.05)
        totals = []
        for _ in range(60):
            optimiser.zero_grad()
            terms, _ = run(method, student, teacher, batch)
            optimiser.step()
            totals.append(sum(t.weight * t.value.item() for t in terms.values()))
        assert totals[0] > 0 and totals[-1] < (0.9 if SOFT & set(terms) else 0.8) * totals[0]
