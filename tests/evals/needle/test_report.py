"""Tests the accuracies of a grid as a table, a CSV file and a picture."""

import csv
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.evals.needle import report
from vxlpro_jax.evals.needle.replies import Cell, NeedleReply

FRAMES = (1, 373, 559, 931, 1118, 1490, 1862, 2048, 3048, 4048, 5048, 6048, 7048, 8192)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MISSED = {(3048, 0.0), (8192, 0.0), (8192, 0.25), (8192, 0.5)}


CAPTION = report.Caption("a-model", "mcq", 0.25)


@pytest.fixture
def published():
    """Replies that give Video-XL-Pro's heat map: five needles per cell, four cells with a miss."""
    cells = itertools.product(FRAMES, DEPTHS, map(str, range(5)), (1.0,))
    return [
        NeedleReply(
            cell, 16, "A", "", not (cell.needle == "3" and (cell.frames, cell.depth) in MISSED)
        )
        for cell in itertools.starmap(Cell, cells)
    ]


def test_the_mean_of_the_published_map_is_the_published_figure(published):
    found = report.cell_scores(published)
    assert len(found) == 70
    assert {(s.frames, s.depth) for s in found if s.accuracy < 1} == MISSED
    assert report.mean_accuracy(found) == {"1": pytest.approx(0.98857, abs=1e-5)}


def test_csv_and_table_hold_every_cell(published):
    half = [r._replace(cell=r.cell._replace(keep_ratio=0.5), right=False) for r in published[:75]]
    found = report.cell_scores(published + half)
    rows = list(csv.DictReader(io.StringIO(report.to_csv(found))))
    assert len(rows) == 70 + 15
    assert {float(row["accuracy"]) for row in rows} == {0.0, 0.8, 1.0}
    assert {(row["needles"], row["kept"]) for row in rows} == {("5", "16.0")}
    assert report.mean_accuracy(found)["0.5"] == 0
    table = report.to_markdown(found)
    assert "keep ratio 0.5, mean 0.0000" in table
    assert "keep ratio 1, mean 0.9886" in table
    assert "| 8192 frames |" in table


def test_a_panel_for_each_keep_ratio(published, tmp_path):
    half = [r._replace(cell=r.cell._replace(keep_ratio=0.5)) for r in published]
    for name, replies in (("one", published), ("two", published + half)):
        report.draw(report.cell_scores(replies), caption=CAPTION, path=tmp_path / f"{name}.png")
    one, two = (Image.open(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert two.height > 1.5 * one.height
    assert len(one.convert("RGB").getcolors(10**6)) > 10


def test_a_length_tells_what_was_kept_of_it():
    assert report._column(64, np.array([16, np.nan, 18])) == "64\n17"
    assert report._column(64, np.array([np.nan])) == "64"


def test_picture_names_the_model_and_the_chance():
    assert report._title(CAPTION) == "Needle in a haystack (mcq), model a-model, chance 25%"
    forced = report.Caption("a-model", "teacher_forced", None)
    assert "chance" not in report._title(forced)
