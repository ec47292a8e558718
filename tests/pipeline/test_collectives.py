"""Two gloo ranks give the values, gradients and decisions of one rank with the whole batch."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.collectives import gather_rows, global_sum, true_on_every_rank, world_size

SCRIPT = Path(__file__).with_name("two_ranks.py")
ROOT = SCRIPT.parents[2]
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of rank 0 and 1 of two, and of the only rank of one."""
    folder = tmp_path_factory.mktemp("ranks")
    outs = [str(folder / name) for name in ("first.pt", "second.pt", "whole.pt")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), "2", str(folder / "store"), outs[rank]],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        runpy.run_path(str(SCRIPT))["main"](0, 1, "", outs[2])
        errors = [process.communicate(timeout=TIMEOUT_S)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return [torch.load(out, weights_only=True) for out in outs]


@pytest.mark.parametrize("split", ["equal", "uneven", "one rank has padding only"])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("what", ["ce", "dsm", "grads"])
def test_losses_and_gradients_equal_those_of_the_whole_batch(ranks, split, variant, what):
    first, second, whole = (result[f"{variant} {split}"][what] for result in ranks)
    torch.testing.assert_close(first, whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(second, whole, rtol=1e-10, atol=1e-12)
    assert whole.abs().max() > 1e-3


def test_sam_keeps_ranks_identical_and_equal_to_one_rank(ranks):
    first, second, whole = (result["sam"] for result in ranks)
    assert torch.equal(first["parameters"], second["parameters"])
    torch.testing.assert_close(first, whole, rtol=1e-9, atol=1e-9)


def test_a_bad_value_on_one_rank_stops_all(ranks):
    for result in ranks:
        assert result["stopped"]["1.0"] == ""
    for value in ("nan", "inf"):
        assert f"loss {value}, gradient norm 1 on this rank" in ranks[0]["stopped"][value]
        assert "loss 1, gradient norm 1 on this rank" in ranks[1]["stopped"][value]


def test_rows_come_in_rank_order_whatever_their_number(ranks):
    expected = torch.tensor([0, 0, 1])[:, None].expand(3, 3)
    assert torch.equal(ranks[0]["rows"], expected) and torch.equal(ranks[1]["rows"], expected)


def test_without_a_process_group_there_is_one_rank():
    x = torch.rand(3, 2, requires_grad=True)
    assert world_size() == 1 and gather_rows(x) is x
    assert torch.equal(global_sum(x), x) and not global_sum(x).requires_grad
    assert true_on_every_rank(torch.tensor(True)) and not true_on_every_rank(torch.tensor(False))
