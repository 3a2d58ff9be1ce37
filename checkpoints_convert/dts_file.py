"""The Dynamic Token Synthesizer alone, as the state dict that the release's `SiglipAE` loads.

Its names are `temporal_encoding` and `encoder.*`; files are in `torch.save` or safetensors format.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from checkpoints_convert import folders, mapping, safetensors_io, torch_bin
from vxlpro_jax.checkpoints.array_store import LazyLeaf
from vxlpro_jax.utils.errors import InputError

SAFE, PICKLED = (".safetensors",), (".pth", ".pt", ".bin")


def read(file: Path) -> dict[str, LazyLeaf]:
    """Reads the tensors under their names in a whole model, whatever prefix the file uses.

    Raises:
        InputError: the file is missing, damaged, or does not have exactly one `temporal_encoding`.
    """
    if not file.is_file():
        raise InputError(f"{file} does not exist.")
    tensors = (safetensors_io if file.suffix in SAFE else torch_bin).read_tensors(file)
    ends = [name for name in tensors if re.search(r"(^|\.)temporal_encoding$", name)]
    if len(ends) != 1:
        raise InputError(f"{file} is not a DTS state dict: it has {len(ends)} temporal_encoding.")
    prefix = ends[0].removesuffix("temporal_encoding")
    return {mapping.DTS + name.removeprefix(prefix): leaf for name, leaf in tensors.items()}


def write(file: Path, *, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors, named as in a whole model, under the state dict's own names.

    Raises:
        InputError: the file exists or is being written, its suffix is neither of safetensors nor
            of `torch.save`, or the latter is requested without torch.
    """
    if file.suffix not in SAFE + PICKLED:
        known = ", ".join(SAFE + PICKLED)
        raise InputError(f"{file}: name the state dict with one of the suffixes {known}.")
    state = {name.removeprefix(mapping.DTS): array for name, array in tensors.items()}
    with folders.new_file(file) as partial:
        (safetensors_io.write_file if file.suffix in SAFE else _pickle)(partial, state)


def _pickle(file: Path, state: Mapping[str, np.ndarray]) -> None:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"Writing {file.name} needs torch: `pip install torch`, or name it .safetensors."
        ) from error

    def tensor(array):
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(array.copy())

    torch.save({name: tensor(np.ascontiguousarray(a)) for name, a in state.items()}, file)
