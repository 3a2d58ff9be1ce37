"""Scores files of annotations and predictions."""

from vxlpro_jax.evals import registry
from vxlpro_jax.evals.annotations import read_predictions
from vxlpro_jax.evals.results import Results


def score_files(name, *, annotations, predictions, profile="official", chain=None):
    """Returns the results that the score command computes from files."""
    benchmark = registry.find(name, chain=chain)
    records = benchmark.read_unique(annotations)
    answers = read_predictions(predictions, ids=[record.id for record in records])
    scored = benchmark.score_all(records, answers, profile=profile)
    return Results.of(benchmark, scored, profile=profile)
