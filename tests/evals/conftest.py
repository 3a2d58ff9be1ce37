"""Fixtures that score invented records and answers."""

import json

import pytest
from scoring import score_files


@pytest.fixture
def write_files(tmp_path):
    """Writes annotations and predictions (a list in order, or a dict by id); returns both paths."""

    def write(records, answers, *, name="annotations.json"):
        annotations, predictions = tmp_path / name, tmp_path / "predictions.jsonl"
        annotations.parent.mkdir(parents=True, exist_ok=True)
        text = records if isinstance(records, str) else json.dumps(records)
        annotations.write_text(text, encoding="utf-8")
        given = answers.items() if isinstance(answers, dict) else enumerate(answers)
        lines = [json.dumps({"id": name, "prediction": text}) for name, text in given]
        predictions.write_text("\n".join(lines), encoding="utf-8")
        return annotations, predictions

    return write


@pytest.fixture
def scored(write_files):
    """Scores invented records; returns `score --json` without benchmark and profile."""

    def run(benchmark, records, answers, *, profile="official", name="annotations.json"):
        annotations, predictions = write_files(records, answers, name=name)
        found = score_files(
            benchmark, annotations=annotations, predictions=predictions, profile=profile
        ).to_json()
        return {key: value for key, value in found.items() if key not in ("benchmark", "profile")}

    return run
