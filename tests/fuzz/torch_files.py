"""`torch.save` files as torch itself writes and reads them."""

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
    except Exception:  # Of a damaged file it raises whatever its parser runs into.
        return None
    return {name: tensor.numpy() for name, tensor in content.items()}
