"""A clip that is known to be good: if it cannot be read, the program is at fault, not a file."""

import functools
from pathlib import Path

import av
import numpy as np

from vxlpro_jax.data.errors import ProgramError
from vxlpro_jax.data.video import decode
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.sampling import Sampling

# H.264 in mp4, one frame every half second: one red, one green, one blue.
CLIP = Path(__file__).with_name("known_good.mp4")

_COLOURS = np.array([[220, 30, 30], [30, 200, 30], [30, 30, 220]])
_SECONDS = [0.0, 0.5, 1.0]
_TOLERANCE = 20  # Of 255: decoders and colour conversions round differently.
_SIDE = 8


@functools.cache
def check_decoding() -> None:
    """Reads the clip like any other video, once per process; later calls do nothing.

    Raises:
        ProgramError: The clip cannot be read, or its frames or times are wrong.
    """
    sampling = Sampling(max_frames=len(_SECONDS), fps=None, size=_SIDE)
    try:
        video = decode.read_container(MediaFile("Video", CLIP), sampling=sampling, threads=1)
    except Exception as error:
        raise _broken(f"{type(error).__name__}: {error}") from error
    if video.times.tolist() != _SECONDS:
        raise _broken(f"its frames come at {video.times.tolist()} s instead of {_SECONDS} s")
    off = np.abs(video.frames.mean((1, 2)) - _COLOURS).max()
    if off > _TOLERANCE:
        raise _broken(f"its colours are off by {off:.0f} of 255")


def _broken(reason: str) -> ProgramError:
    return ProgramError(
        f"The clip that comes with vxlpro_jax, {CLIP}, cannot be read with PyAV {av.__version__}"
        f" ({reason}): this is a fault of vxlpro_jax or of its installation, not of your files."
    )
