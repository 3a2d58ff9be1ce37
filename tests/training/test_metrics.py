"""Tests metrics.jsonl: one line per step in all cases, rates from an injected clock."""

import json

import jax.numpy as jnp
import pytest

from vxlpro_jax.training import metrics
from vxlpro_jax.training.goodput import WallTime
from vxlpro_jax.training.metrics import MetricsWriter
from vxlpro_jax.utils.accelerators import GPUS


class Clock:
    """A clock that the test advances."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def wall_time(clock):
    return WallTime(clock=clock)


@pytest.fixture
def open_writer(tmp_path, wall_time):
    writers = []

    def build(first_step=0):
        writer = MetricsWriter(tmp_path, first_step=first_step, total_steps=9, wall_time=wall_time)
        writers.append(writer)
        return writer

    yield build
    for writer in writers:
        writer._files.close()


def add(writer, clock, step, loss=1.0):
    writer.add(step, scalars(loss), data_wait=0.0)
    clock.now += 1


def scalars(loss=1.0):
    values = {"loss": loss, "lr": 0.1, "grad_norm": 2.0, "tokens": 600, "frames": 12}
    return {name: jnp.asarray(value) for name, value in values.items()}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_line_per_step_with_rates(tmp_path, open_writer, clock, capsys):
    writer = open_writer()
    writer.add(1, scalars(3.0), data_wait=0.25)
    writer.add(2, scalars(2.0), data_wait=0.5)
    assert not (tmp_path / "metrics.jsonl").exists()
    clock.now += 4
    writer.flush()
    first, second = rows(tmp_path)
    assert (first["step"], first["loss"], first["data_wait"]) == (1, 3.0, 0.25)
    assert (second["step"], second["loss"]) == (2, 2.0)
    assert first["step_seconds"] == 2
    assert first["tokens_per_second"] == 300
    assert first["frames_per_second"] == 6
    assert "step 2/9  loss 2.0000" in capsys.readouterr().out
    assert list((tmp_path / "tensorboard").iterdir())


def test_rates_of_steps_of_several_shapes_are_those_of_all_together(tmp_path, open_writer, clock):
    """Only their total time is known."""
    writer = open_writer()
    for step, tokens in ((1, 100), (2, 900)):
        writer.add(step, scalars() | {"tokens": jnp.asarray(tokens)}, data_wait=0.0)
    clock.now += 4
    writer.flush()
    assert [row["tokens_per_second"] for row in rows(tmp_path)] == [250, 250]
    assert [row["tokens"] for row in rows(tmp_path)] == [100, 900]


def test_checkpoints_do_not_count_as_step_time(tmp_path, open_writer, wall_time, clock):
    writer = open_writer()
    clock.now += 1
    wall_time.lap("data")
    clock.now += 50
    wall_time.lap("checkpoint")
    add(writer, clock, 1)
    writer.close()
    assert rows(tmp_path)[0]["step_seconds"] == 2
    assert rows(tmp_path)[0]["goodput"] == pytest.approx(1 / 52)


def test_every_second_belongs_to_one_kind(tmp_path, wall_time, clock):
    for kind, seconds in (("start", 5), ("compile", 20), ("step", 60), ("data", 10), ("step", 5)):
        clock.now += seconds
        assert wall_time.lap(kind) == seconds
    wall_time.write(tmp_path / "goodput.json")
    told = json.loads((tmp_path / "goodput.json").read_text())
    assert told["goodput"] == 0.65
    assert sum(told["seconds"].values()) == 100
    assert wall_time.training == 95
    expected = "Of 100 s, 65% were steps (start 5 s, compile 20 s, step 65 s, data 10 s)."
    assert str(wall_time) == expected
    with pytest.raises(KeyError):
        wall_time.lap("coffee")


def test_mfu_where_the_device_is_known(tmp_path, wall_time, clock, monkeypatch):
    monkeypatch.setattr(metrics, "_peak_flops", lambda: 2 * GPUS["h100"].flops)
    writer = MetricsWriter(tmp_path, first_step=0, total_steps=9, wall_time=wall_time)
    writer.add(1, scalars() | {"flops": jnp.asarray(GPUS["h100"].flops)}, data_wait=0.0)
    clock.now += 2
    writer.close()
    (row,) = rows(tmp_path)
    assert row["mfu"] == pytest.approx(0.25)
    assert row["flops_per_second"] == pytest.approx(GPUS["h100"].flops / 2)


def test_resuming_drops_later_and_partial_lines(tmp_path, open_writer, clock):
    lines = [json.dumps({"step": step, "loss": step / 2}) for step in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 6, "lo')
    writer = open_writer(first_step=3)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(line + "\n" for line in lines[:3])
    add(writer, clock, 4)
    writer.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]


def test_partial_line_of_a_kept_step_is_dropped_too(tmp_path, open_writer):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    open_writer(first_step=9)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_null_and_left_out_of_the_curves(
    tmp_path, open_writer, clock, loss, capsys
):
    """Standard JSON has no NaN, and readers in any language must be able to read the file."""
    writer = open_writer()
    for step, value in ((1, 1.0), (2, loss), (3, 1.0)):
        add(writer, clock, step, value)
    writer.flush()
    assert [row["loss"] for row in rows(tmp_path)] == [1.0, None, 1.0]
    writer.add(4, scalars(loss) | {"skipped_steps": jnp.asarray(2)}, data_wait=0.0)
    clock.now += 1
    writer.close()
    assert "2 skipped" in capsys.readouterr().out
    writer.draw()
    assert (tmp_path / "curves.png").exists()


def test_flushing_nothing_writes_nothing(tmp_path, open_writer):
    open_writer().close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_curves_are_drawn_once_steps_are_written(tmp_path, open_writer, clock):
    writer = open_writer()
    writer.draw()
    assert not (tmp_path / "curves.png").exists()
    for step in (1, 2):
        add(writer, clock, step, 3.0 / step)
    writer.close()
    writer.draw()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_checkpoints_that_follow_one_another_share_a_drawing(
    tmp_path, open_writer, clock, wall_time
):
    writer = open_writer()
    drawings = []
    for step in range(1, 8):
        add(writer, clock, step, 3.0)
        writer.flush()
        clock.now += 9
        wall_time.lap("checkpoint")
        writer.draw_if_due()
        drawings.append((tmp_path / "curves.png").exists())
        (tmp_path / "curves.png").unlink(missing_ok=True)
    assert drawings == [False, False, True, False, False, True, False]
