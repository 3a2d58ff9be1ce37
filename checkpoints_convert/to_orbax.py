"""Converts release-format PyTorch weights to a model folder; streaming bounds the memory."""

from pathlib import Path

from checkpoints_convert.casting import DTYPES, cast
from checkpoints_convert.model_folder import dtype_names, write_model
from checkpoints_convert.release import config_text, open_release, reconcile
from vxlpro_jax.config import release_keys


def convert(source: Path, destination: Path, *, dtype: str = "keep") -> None:
    """Converts a release-format folder into the model folder `destination`.

    Args:
        source: folder with config.json and safetensors or `.bin` files.
        destination: path that does not exist yet.
        dtype: dtype of the result, `bfloat16`, `float16`, `float32`, or `keep` for each tensor's
            own.

    Raises:
        InputError: the source is incomplete, damaged or another model; or the destination exists.
    """
    release = open_release(source)
    found = reconcile(release.config, release.tensors)
    tensors, config = found.tensors, found.config
    if unknown := release_keys.unknown(config):
        names = ", ".join(key if key.isprintable() else repr(key) for key in unknown)
        print(f"config.json has unknown keys, kept but without effect: {names[:400]}.")
    if dtype != "keep":
        tensors = {name: cast(leaf, DTYPES[dtype]) for name, leaf in tensors.items()}
        config |= {"torch_dtype": dtype} if "torch_dtype" in config else {}
    write_model(
        destination,
        tensors=tensors,
        config_text=config_text(config, original=source / "config.json"),
        tokenizer_from=source,
        sources=(*release.files, source / "config.json"),
        facts={
            "made_by": "torch_to_orbax",
            "dtype": dtype,
            "source_dtypes": dtype_names(release.tensors),
            "stores_tied_head": found.stores_tied_head,
            "unknown_config_keys": unknown,
        },
    )
