"""Weights files: what is read, what is refused."""

import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.models.weights import WeightsError, load_matching, read_weights


@pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict"])
def test_torch_files_are_unwrapped(tmp_path, wrapper):
    path = tmp_path / "w.pth"
    state = {"a": torch.arange(3.0)}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
    assert torch.equal(read_weights(path)["a"], state["a"])


def test_safetensors_are_read(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "w.safetensors")
    assert torch.equal(read_weights(str(tmp_path / "w.safetensors"))["a"], torch.arange(3.0))


def test_a_long_list_of_mismatches_is_cut_and_counted():
    weights = {f"x{i}": torch.zeros(1) for i in range(30)}
    with pytest.raises(WeightsError, match=r"some file does not fit the model, 32 mismatches: .*; and 12 more"):
        load_matching(nn.Linear(2, 2), weights, "some file")


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    "content",
    [None, b"", b"not weights", pickle.dumps(Payload(), protocol=2), {"epoch": 3}, {}],
    ids=["missing", "empty", "text", "pickle", "no tensors", "no entries"],
)
@pytest.mark.parametrize("suffix", ["pyth", "safetensors"])
def test_unreadable_files_are_refused_without_unpickling(tmp_path, content, suffix):
    path = tmp_path / f"x.{suffix}"
    if isinstance(content, dict):
        torch.save(content, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        read_weights(path)


def test_a_pickled_object_inside_a_torch_file_is_not_built(tmp_path):
    path = tmp_path / "x.pyth"
    torch.save({"model_state": Payload()}, path)
    with pytest.raises(WeightsError, match="not a readable weights file"):
        read_weights(path)
