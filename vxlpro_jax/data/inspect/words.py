"""What a batch holds, in words."""

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
    """How a batch came about.

    Attributes:
        number: of the batch, from 0.
        seconds: until it was there.
        bad: records passed over, by kind.
    """

    number: int
    seconds: float
    bad: Mapping[str, int]


def describe_batch(batch: Batch, *, account: BatchUsage, making: LoadStats) -> str:
    """Shapes, shares and speed, a line each."""
    samples = sum(account.samples)
    start = " with the start" if making.number == 0 else ""
    lines = [
        f"Batch {making.number}: {samples} sample(s) in {len(account.samples)} row(s), made in"
        f" {making.seconds:.2f} s{start}: {samples / making.seconds:.1f} samples/s",
        *(_array(name, x) for name, x in batch.items() if x.size),
        _line("groups", f"{_use(account.groups)}: packing efficiency {account.groups.share:.1%}"),
    ]
    if account.text.of:
        lines += [
            _line("text", f"{_use(account.text)}; {account.targets} of them learned"),
            _line("decoder", f"{_use(account.slots)}, before the selector drops any"),
        ]
    bad = ", ".join(f"{count} {kind}" for kind, count in making.bad.items()) or "none"
    lines += [_line("samples", _per_row(account.samples)), _line("bad", bad)]
    return "\n".join(lines)


def describe_sample(sample: SampleView) -> str:
    """Its record, frames and conversation; what is learned stands between ⟦ and ⟧."""
    lines = [heading(sample), f"  {frames(sample)}"]
    if sample.stamps:
        lines.append(f"  {_stamps(sample.stamps)}")
    if sample.ids:
        lines.append(f"  {sample.ids} ids, {sample.targets} of them learned:")
        lines += [f"    {marked(turn)}" for turn in sample.turns]
    return "\n".join(lines)


def heading(sample: SampleView, *, most: int = 0) -> str:
    """Which sample it is; of its name the end, `most` characters, or with 0 all of it."""
    name = sample.name
    if most and len(name) > most:
        name = f"…{name[-most:]}"
    return f"Row {sample.row}, sample {sample.number}" + (f": {name}" if name else "")


def frames(sample: SampleView) -> str:
    """How many frames it has, and the time from the first stamp to the last."""
    if not sample.groups:
        return "no frames"
    text = f"{sample.groups * FRAMES_PER_GROUP} frames in {sample.groups} group(s)"
    if sample.repeated:
        text += f", {sample.repeated} of them repeated"
    if sample.stamps:
        first, last = (float(_SECONDS.search(sample.stamps[i])[0]) for i in (0, -1))
        text += f"; {last - first:.1f} s from the first stamp to the last"
    return text


def marked(turn: Sequence[TextSpan]) -> str:
    """A turn's text, what is learned between ⟦ and ⟧."""
    return "".join(f"⟦{text}⟧" if kind == "learned" else text for text, kind in turn)


def _stamps(stamps: Sequence[str]) -> str:
    if len(stamps) <= _MOST_STAMPS:
        return " ".join(stamps)
    return f"{' '.join(stamps[: _MOST_STAMPS - 1])} … {stamps[-1]}"


def _array(name: str, array) -> str:
    return _line(name, f"{array.dtype} {list(array.shape)}, {array.nbytes:,} bytes")


def _line(name: str, text: str) -> str:
    return f"  {name:<16}{text}"


def _use(use: Usage) -> str:
    return f"{use.used:,} of {use.of:,} used, {use.padding:.1%} padding"


def _per_row(samples: Sequence[int]) -> str:
    mean = sum(samples) / len(samples)
    return f"{mean:.2f} a row, {min(samples)} to {max(samples)}"
