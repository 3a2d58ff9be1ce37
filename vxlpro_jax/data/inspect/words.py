"""Describes a batch and its samples in text."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.inspect.text import TextSpan
from vxlpro_jax.data.inspect.view import BatchUsage, SampleView, Usage
from vxlpro_jax.data.loader.batches import Batch

_MOST_STAMPS = 6
_SECONDS = re.compile(r"[\d.]+")


class LoadStats(NamedTuple):
    """How a batch was prepared.

    Attributes:
        number: number of the batch, from 0.
        seconds: waiting time until the batch was ready.
        bad: number of records skipped, by kind.
    """

    number: int
    seconds: float
    bad: Mapping[str, int]


def describe_batch(batch: Batch, *, usage: BatchUsage, stats: LoadStats) -> str:
    """Describes shapes, usage and speed, one line each."""
    samples = sum(usage.samples)
    start = " including startup" if stats.number == 0 else ""
    lines = [
        f"Batch {stats.number}: {samples} sample(s) in {len(usage.samples)} row(s), made in"
        f" {stats.seconds:.2f} s{start}: {samples / stats.seconds:.1f} samples/s",
        *(_array(name, x) for name, x in batch.items() if x.size),
        _line("groups", f"{_use(usage.groups)}: packing efficiency {usage.groups.share:.1%}"),
    ]
    if usage.text.total:
        lines += [
            _line("text", f"{_use(usage.text)}; {usage.targets} targets"),
            _line("decoder", f"{_use(usage.slots)}, before selection"),
        ]
    bad = ", ".join(f"{count} {kind}" for kind, count in stats.bad.items()) or "none"
    lines += [_line("samples", _per_row(usage.samples)), _line("bad", bad)]
    return "\n".join(lines)


def describe_sample(sample: SampleView) -> str:
    """Describes the record, frames and conversation of a sample; targets stand between ⟦ and ⟧."""
    lines = [heading(sample), f"  {frames(sample)}"]
    if sample.stamps:
        lines.append(f"  {_stamps(sample.stamps)}")
    if sample.ids:
        lines.append(f"  {sample.ids} ids, including {sample.targets} targets:")
        lines += [f"    {marked(turn)}" for turn in sample.turns]
    return "\n".join(lines)


def heading(sample: SampleView, *, most: int = 0) -> str:
    """Names a sample; shows only the last `most` characters of its name, or all if 0."""
    name = sample.name
    if most and len(name) > most:
        name = f"…{name[-most:]}"
    return f"Row {sample.row}, sample {sample.number}" + (f": {name}" if name else "")


def frames(sample: SampleView) -> str:
    """Describes the number of frames and the time from the first to the last stamp."""
    if not sample.groups:
        return "no frames"
    text = f"{sample.groups * FRAMES_PER_GROUP} frames in {sample.groups} group(s)"
    if sample.repeated:
        text += f", including {sample.repeated} repeated"
    if sample.stamps:
        first, last = _seconds(sample.stamps[0]), _seconds(sample.stamps[-1])
        text += f"; {last - first:.1f} s from the first stamp to the last"
    return text


def _seconds(stamp: str) -> float:
    match = _SECONDS.search(stamp)
    return float(match[0]) if match else 0.0


def marked(turn: Sequence[TextSpan]) -> str:
    """Returns the text of a turn with targets between ⟦ and ⟧."""
    return "".join(f"⟦{text}⟧" if kind == "target" else text for text, kind in turn)


def _stamps(stamps: Sequence[str]) -> str:
    if len(stamps) <= _MOST_STAMPS:
        return " ".join(stamps)
    return f"{' '.join(stamps[: _MOST_STAMPS - 1])} … {stamps[-1]}"


def _array(name: str, array) -> str:
    return _line(name, f"{array.dtype} {list(array.shape)}, {array.nbytes:,} bytes")


def _line(name: str, text: str) -> str:
    return f"  {name:<16}{text}"


def _use(use: Usage) -> str:
    return f"{use.used:,} of {use.total:,} used, {use.padding:.1%} padding"


def _per_row(samples: Sequence[int]) -> str:
    mean = sum(samples) / len(samples)
    return f"{mean:.2f} per row, {min(samples)} to {max(samples)}"
