"""`torch.save` files as torch itself writes and reads them."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch


def save(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a state dict."""
    torch.save({name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}, path)


def load(path: Path) -> dict[str, np.ndarray] | None:
    """The tensors as torch reads them; None where it refuses the file."""
    try:
        content = torch.load(path, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, ValueError, KeyError, OSError, EOFError):
        return None
    return {name: tensor.numpy() for name, tensor in content.items()}
