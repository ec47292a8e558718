"""One rank of the distributed tests, as a script: two_ranks.py <rank> <world> <store file> <result file>.

World 1 runs the same computations on the whole batch without a process group.
"""

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.collectives import gather_rows, global_sum
from pipeline.losses import cross_entropy, dsm_loss, gather, global_mean
from pipeline.metrics import IGNORED
from pipeline.optim import SAM, NonFiniteError, assert_finite

LABELS = [0, 1, 0, 2, 1, 0, IGNORED, 2]
SPLITS = {"equal": (4, 4), "uneven": (5, 3), "one rank has padding only": (6, 1)}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.classifier = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.tanh(self.body(x))
        return z, self.classifier(z)


def share(rank: int, world: int, sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    x = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))[: sum(sizes)]
    label = torch.tensor(LABELS[: sum(sizes)])
    return (x, label) if world == 1 else (x.split(sizes)[rank], label.split(sizes)[rank])


def build(world: int) -> nn.Module:
    model = Model().double()
    return DistributedDataParallel(model) if world > 1 else model


def losses(model: nn.Module, x: Tensor, label: Tensor, variant: str) -> tuple[Tensor, Tensor]:
    z, logits = model(x)
    weights = torch.tensor([0.5, 1.0, 2.0])
    ce = global_mean(*cross_entropy(logits, label, smoothing=0.1, class_weights_K=weights))
    return ce, dsm_loss(*gather(z, label), variant=variant).loss


def gradients(rank: int, world: int, sizes: tuple[int, int], variant: str) -> dict[str, Tensor]:
    model = build(world)
    ce, dsm = losses(model, *share(rank, world, sizes), variant)
    (3 * ce + 0.5 * dsm).backward()
    grads = torch.cat([p.grad.flatten() for p in model.parameters()])
    return {"ce": global_sum(ce) / world, "dsm": dsm.detach(), "grads": grads}


def sam_updates(rank: int, world: int) -> dict[str, Tensor]:
    model = build(world)
    sam = SAM(torch.optim.AdamW(model.parameters(), lr=0.05), rho=0.2)
    x, label = share(rank, world, SPLITS["equal"])
    norms = []
    for _ in range(3):
        sum(losses(model, x, label, "paper")).backward()
        norms.append(sam.first_step())
        sum(losses(model, x, label, "paper")).backward()
        sam.second_step()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {"parameters": flat, "norms": torch.tensor(norms)}


def stopped(rank: int, value: float) -> str:
    """Message on this rank when only rank 0 holds the value, as its loss."""
    try:
        assert_finite(torch.tensor(value if rank == 0 else 1.0), torch.tensor(1.0))
    except NonFiniteError as error:
        return str(error)
    return ""


def main(rank: int, world: int, store: str, out: str) -> None:
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    result = {
        f"{variant} {name}": gradients(rank, world, sizes, variant)
        for name, sizes in SPLITS.items()
        for variant in ("paper", "released")
    }
    result["sam"] = sam_updates(rank, world)
    result["stopped"] = {str(value): stopped(rank, value) for value in (1.0, float("nan"), float("inf"))}
    result["rows"] = gather_rows(torch.full((2 - rank, 3), rank))
    torch.save(result, out)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
