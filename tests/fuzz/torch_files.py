"""Writes and reads files of `torch.save` with torch itself."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch


def save(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a state dict."""
    torch.save({name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}, path)


def load(path: Path) -> dict[str, np.ndarray] | None:
    """Returns the tensors as torch reads them; None if it refuses the file."""
    try:
        content = torch.load(path, weights_only=True)
    except Exception:  # For a damaged file torch raises many kinds of exceptions.
        return None
    return {name: tensor.numpy() for name, tensor in content.items()}
