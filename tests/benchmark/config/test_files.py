"""The files of `conf/`, which a user may add to."""

import os
import shutil

import pytest

from benchmark.config import files
from benchmark.config.command_options import load_analysis
from benchmark.config.compose import load_config
from benchmark.errors import UserError


@pytest.mark.parametrize("place", ["method/mine", "dataset/mine", "config"])
def test_a_fifo_in_place_of_a_file_is_refused_and_not_waited_for(place, tmp_path, monkeypatch):
    shutil.copytree(files.CONF, tmp_path / "conf")
    monkeypatch.setattr(files, "CONF", tmp_path / "conf")
    path = tmp_path / "conf" / f"{place}.yaml"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for load in (load_config, load_analysis):
        with pytest.raises(UserError, match=rf"conf/{place}.yaml is not a regular file: remove it, or write it again"):
            load([])
