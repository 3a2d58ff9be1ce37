"""Distinguishes files that were cut off from complete files whose header declares too much."""

import logging
import os
import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import av
import av.container
from av.format import Flags

from vxlpro_jax.data.video.media_file import MediaFile

log = logging.getLogger(__name__)

# A file that ends before this share of its declared length may have been cut off.
_COMPLETE = 0.9

_MOST_PARTS = 100_000  # Enough for a day of fragments of one second.


class Extent(NamedTuple):
    """The time range that the packets of a file cover.

    Attributes:
        start: earliest time in seconds; infinite if no packet has one.
        end: end of the latest packet in seconds.
        cut: whether the last packet is incomplete.
    """

    start: float
    end: float
    cut: bool


def check_complete(
    media: MediaFile, container: av.container.InputContainer, extent: Extent
) -> None:
    """Checks that a file is as long as its header declares.

    A shorter file is accepted, with a warning, if the sizes in its structure add up to its size in
    bytes, which shows that nothing is missing.

    Raises:
        BadFile: The file has been cut off.
    """
    declared, held = _declared(media, container, extent), extent.end - extent.start
    is_short = 0 <= held < declared * _COMPLETE
    if extent.cut or (is_short and not _is_whole(media, container)):
        raise media.bad(
            f"is cut off before the {declared:.1f} s that it declares: copy it again, remove it or,"
            " if nothing is missing, rewrite it (ffmpeg -i OLD -c copy NEW)",
            kind="cut_off",
        )
    if is_short:
        log.warning(
            "Video %s declares %.1f s but holds %.1f s; it is not cut off, so all of it is read.",
            media.name,
            declared,
            held,
        )


def _declared(media: MediaFile, container: av.container.InputContainer, extent: Extent) -> float:
    """Returns the length in seconds that the header declares; 0 if it declares none.

    Many files that start late declare their end instead. Transport and program streams declare
    nothing; FFmpeg estimates their duration, which is wrong where time jumps.
    """
    if container.format.flags & Flags.ts_discont.value:
        return 0.0
    declared = (container.duration or 0) / av.time_base
    if container.format.name == "asf":  # FFmpeg drops the duration if the file size differs.
        with media.opened() as file:
            declared = _asf_properties(file).seconds
    return declared - extent.start if 0 < extent.start < declared else declared


def _is_whole(media: MediaFile, container: av.container.InputContainer) -> bool:
    """Returns whether the file's structure shows that it is complete; False if unknown."""
    check = _CHECKS.get(container.format.name)
    if check is None:
        return False
    with media.opened() as file:
        size = file.seek(0, os.SEEK_END)
        try:
            return check(file, size)
        except struct.error:  # The file ends within a field.
            return False


def _is_whole_riff(file: BinaryIO, size: int) -> bool:
    """Returns whether the outermost chunks of an AVI end within the file."""
    place = 0
    for _ in range(_MOST_PARTS):
        if place + 8 > size or (chunk := _at(file, place, "<4sI"))[0] != b"RIFF":
            return 8 < place <= size + 1
        place += 8 + chunk[1] + chunk[1] % 2
    return False


def _is_whole_ebml(file: BinaryIO, size: int) -> bool:
    """Returns whether the segment of a Matroska file, after its header, ends within the file."""
    place = 0
    for _ in range(2):
        length, width = _ebml_size(file, place + 4)  # Both ids have four bytes.
        if length is None:
            return False
        place += 4 + width + length
    return place <= size


def _ebml_size(file: BinaryIO, place: int) -> tuple[int | None, int]:
    """Returns an element's length (None if unknown) and the number of bytes that encode it."""
    (first,) = _at(file, place, ">B")
    width = 9 - first.bit_length()
    if width > 8:
        return None, width
    file.seek(place)
    value = int.from_bytes(file.read(width)) & (1 << 7 * width) - 1
    return (None if value == (1 << 7 * width) - 1 else value), width


def _is_whole_flv(file: BinaryIO, size: int) -> bool:
    """Returns whether the file ends with a tag followed by the tag's length."""
    (length,) = _at(file, size - 4, ">I")
    start = size - 4 - length
    if start < 9 or length < 11:
        return False
    return int.from_bytes(_at(file, start, ">B3s")[1]) == length - 11


def _is_whole_asf(file: BinaryIO, size: int) -> bool:
    """Returns whether the file has at least the size in bytes that its properties declare."""
    file.seek(0)
    return 0 < _asf_properties(file).size <= size


class _AsfProperties(NamedTuple):
    size: int
    seconds: float


def _asf_properties(file: BinaryIO) -> _AsfProperties:
    """Reads the properties of an ASF file at its first byte; zeros if there are none."""
    head = file.read(1 << 16)
    place = head.find(_ASF_PROPERTIES)
    if place < 0 or place + 92 > len(head):
        return _AsfProperties(0, 0.0)
    size, played, preroll, flags = struct.unpack_from("<Q16xQ8xQI", head, place + 40)
    is_live = flags & 1
    return _AsfProperties(size, 0.0 if is_live else played / 1e7 - preroll / 1e3)


# After the id: object size, file id (16 bytes), file size, creation date, packets, duration to play
# and to send in 100 ns, preroll in ms, flags.
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")

_CHECKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "avi": _is_whole_riff,
    "matroska,webm": _is_whole_ebml,
    "flv": _is_whole_flv,
    "asf": _is_whole_asf,
}


def _at(file: BinaryIO, place: int, form: str) -> tuple:
    file.seek(max(place, 0))
    return struct.unpack(form, file.read(struct.calcsize(form)))
