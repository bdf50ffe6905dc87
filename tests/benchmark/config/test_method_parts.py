"""Files of methods that build on others, against Hydra's composition of them."""

import shutil

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmark.config import files
from benchmark.config.compose import load_method
from benchmark.config.method_parts import compose_part
from benchmark.errors import UserError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(a=…, b=…): the files of conf/method/ with these names."""
    shutil.copytree(files.CONF, tmp_path / "conf")
    monkeypatch.setattr(files, "CONF", tmp_path / "conf")

    def written(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / "conf" / "method" / f"{name}.yaml").write_text(text)

    return written


def composed_by_hydra(name: str) -> object:
    with initialize_config_dir(str(files.CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(f"method/{name}").method)


@pytest.mark.parametrize(
    "text",
    [
        "name: mine\nweight: 1",
        "defaults: [base, _self_]\nname: mine\nlist: [3]\nnested: { b: 5 }",
        "defaults: [_self_, base]\nname: mine\nlist: [3]\nnested: { c: 5 }",  # the base on top
        "defaults: [base, other, _self_]\nweight: 7",
        "defaults: [base@part, other@part, _self_]\npart: { nested: { b: 5 } }",
        "defaults: [second, _self_]\nnested: { a: 9 }",  # which builds on base
        "defaults: [second@part, _self_]\nname: mine",
    ],
)
def test_the_layers_are_those_of_hydra(write, text):
    write(
        base="name: base\nweight: ${scaled:20}\nlist: [1, 2]\nnested: { a: 1, b: 2 }",
        other="name: other\nnested: { a: 3 }",
        second="defaults: [base, _self_]\nname: second\nnested: { b: 4 }",
        mine=text,
    )
    assert OmegaConf.to_container(compose_part("mine")) == composed_by_hydra("mine")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("defaults: [kd]\nname: mine", marks=pytest.mark.filterwarnings("ignore:.*_self_")),
        "defaults: [/dataset/digits, _self_]\nname: mine",
        "defaults: [{/dataset@part: digits}, _self_]\nname: mine",
        "# @package method\nname: mine",
    ],
)
def test_other_forms_are_left_to_hydra(write, text):
    write(mine=text)
    assert compose_part("mine") is None and isinstance(composed_by_hydra("mine"), dict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 'mine\n", "no YAML"),
        ("- a\n", "must be a DictConfig"),
        ("defaults: kd", "defaults"),
        ("defaults: [nothing, _self_]", "Could not load 'method/nothing'"),
    ],
)
def test_mistakes_are_left_to_hydra(write, text, message):
    write(mine=text)
    assert compose_part("mine") is None
    with pytest.raises(UserError, match=message):
        load_method("mine", "", [])


def test_files_that_build_on_each_other_are_refused(write):
    write(mine="defaults: [other, _self_]", other="defaults: [mine@part, _self_]")
    with pytest.raises(UserError, match=r"conf/method/mine\.yaml: its defaults lead back to it: mine, other, mine"):
        load_method("mine", "", [])
