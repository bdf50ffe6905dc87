"""`methods` and `pairs`: the table of all methods, and the lists of pairs."""

import json

from benchmark import networks
from benchmark.__main__ import main
from benchmark.commands import methods
from benchmark.config import files, pairs
from benchmark.config.compose import load_method


def test_the_table_has_a_row_for_each_method(tmp_path):
    for name, method, ratio in [("", "kd", 1.234), ("-new", "gkl", 1.0)]:
        rows = [{"method": method, "ratio_to_student": ratio}]
        (tmp_path / f"wrn40_2-wrn16_2{name}.json").write_text(json.dumps({"rows": rows}))
    lines = methods.markdown(tmp_path).splitlines()
    rows = {line.split("`")[1]: [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]}
    assert sorted(rows) == files.group_names("method")
    assert rows["kd"][4:7] == ["temperature 4, ce_weight 0.1, kd_weight 0.9, standardise false", "0", "1.23"]
    assert rows["gkl"][6] == "1.00" and rows["crd"][6] == "–" and rows["ce"][3] == "baseline"
    assert "two views" in rows["mlld"][7] and "30 epochs before" in rows["ab"][7]
    assert "layers kept at inference" in rows["simkd"][7]


def test_extra_parameters_by_hand():
    """CRD on resnet32x4-resnet8x4 has two linear embeddings of 256 features to 128."""
    method = methods.build_on_pair(load_method("crd", "", ["profile=paper"]))
    assert method is not None
    assert sum(p.numel() for p in method.parameters()) == 2 * (256 * 128 + 128)


def test_pairs_are_listed_with_learning_rates(capsys):
    assert main(["pairs", "profile=paper"]) == 0
    printed = capsys.readouterr().out
    for name, members in pairs.lists().items():
        assert f"{name} (PAIR={name} runs all of them)" in printed
        for pair in members:
            light = networks.is_light(networks.split_pair(pair)[1])
            assert f"  {pair:<24} student's learning rate {0.01 if light else 0.05}" in printed
    assert networks.names()[0] in printed.splitlines()[-1]
