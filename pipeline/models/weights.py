"""Pretrained weights from a local file into a module: nothing unpickled, every mismatch reported at once."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

LISTED = 20
"""Mismatches that one message spells out."""


class WeightsError(ValueError):
    """A weights file cannot be read or does not fit the model; the message names the file and every mismatch."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from torch's format with `weights_only=True`.

    A checkpoint that keeps its weights under `model_state` or `state_dict` is unwrapped.

    Raises:
        WeightsError: the file is missing, unreadable, needs unpickling or holds no tensors.
    """
    path = Path(path)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path}: not a readable weights file ({error}); give safetensors or a plain torch state dict"
        ) from error
    for wrapper in ("model_state", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = isinstance(content, Mapping) and all(isinstance(v, Tensor) for v in content.values())
    if not tensors or not content:
        raise WeightsError(f"{path}: no state dict (name to tensor) found in it")
    return dict(content)


def load_matching(
    module: nn.Module, weights: Mapping[str, Tensor], source: str | Path, *, skip: str | None = None
) -> None:
    """Copy weights into a module; names and shapes must agree exactly apart from `skip`.

    Args:
        source: named in errors.
        skip: parameters whose name starts with this keep their values and are not looked for.

    Raises:
        WeightsError: missing, surplus and misshapen entries, all of them; the module is then unchanged.
    """
    own = {name: tensor for name, tensor in module.state_dict().items() if not _skipped(name, skip)}
    given = {name: tensor for name, tensor in weights.items() if not _skipped(name, skip)}
    # BatchNorm's step count only matters for cumulative averages; old checkpoints lack it.
    missing = [n for n in own if n not in given and not n.endswith(".num_batches_tracked")]
    faults = [f"missing {name}" for name in missing]
    faults += [f"surplus {name}" for name in given if name not in own]
    faults += [
        f"{name} is {tuple(given[name].shape)}, the model has {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        raise WeightsError(
            f"{source} does not fit the model, {len(faults)} mismatches: {'; '.join(faults[:LISTED])}{more}"
        )
    module.load_state_dict(given, strict=False)


def _load_torch(path: Path) -> object:
    return torch.load(path, weights_only=True, map_location="cpu")


def _skipped(name: str, skip: str | None) -> bool:
    return skip is not None and name.startswith(skip)
