"""Checks early that files of a data set are where its records say, before any is decoded."""

import os

from vxlpro_jax.data.sources import paths
from vxlpro_jax.data.sources.load import Records
from vxlpro_jax.data.sources.schema import RecordSequence
from vxlpro_jax.utils.errors import InputError

_MOST_LOOKS = 16


def check_roots(records: Records) -> None:
    """Checks a sample of the local files of each data set.

    Raises:
        InputError: None of them exists, as with a wrong root. Single missing files are left to
            the quota of bad samples.
    """
    for part in records.parts:
        _check_root(part)


def _check_root(part: RecordSequence) -> None:
    step = max(1, len(part) // _MOST_LOOKS)
    outlines = [part.outline(i) for i in range(0, len(part), step)]
    named = [
        (record, file)
        for record in outlines
        if record.root and not paths.is_remote(record.root)
        for file in record.media[:1]
    ]
    if not named or any(os.path.lexists(os.path.join(f.root, f.name)) for _, f in named):
        return
    record, file = named[0]
    key = "video_root" if record.video else "image_root"
    raise InputError(
        f"None of the {len(named)} files that records name exists, such as {file.name} of"
        f" {record.name} in {file.root}: set data.{key} to the folder of the files."
    )
