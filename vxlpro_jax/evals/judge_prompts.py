"""What a judge model is asked about an answer: the authors' criteria and scales in our own words.

Differs from the authors' scripts because their texts are not free to be copied. Ratings under
another wording, and by another judge, do not compare with published ones.
"""

_AS_JSON = 'Give a reason for each score, and end with a JSON object: {{"{}": x, "{}": y}}.'

MLVU_SUB_SCENE_SYSTEM = (
    "You rate an answer about a scene of a video from 1 to 5 in two respects. Accuracy: compare it"
    " with each of the scoring points (1: it misses the point, 3: it mentions it, but not quite"
    " rightly, 5: it has it right) and take the mean. Relevance: whether it speaks of what was"
    " asked, right or wrong (1: of something else, 2: mostly of something else, 3: of it, but"
    " unsure, 4: mostly of it and sure, 5: of nothing else and certain). "
    + _AS_JSON.format("score_accuracy", "score_relevance")
)

MLVU_SUB_SCENE = "Question: {question}\nScoring points: {points}\nAnswer: {answer}"

MLVU_SUMMARY_SYSTEM = (
    "You compare a summary of a video with a reference and rate it by whole numbers from 1 to 5 in"
    " two respects. Completeness: how many of the key points it has (1: hardly any, 2: some,"
    " 3: most, 4: nearly all, 5: all). Reliability: how free it is of errors and contradictions,"
    " and how clear (1: many errors, 2: several, 3: few, 4: negligible ones, 5: none); details that"
    " the reference lacks count only if they contradict it. "
    + _AS_JSON.format("score_completeness", "score_reliability")
)

MLVU_SUMMARY = "Reference: {reference}\nSummary: {answer}"

TEMPCOMPASS_SYSTEM = "You answer questions about a video of which you know only a description."

TEMPCOMPASS = (
    "From the description choose the option that is right. If it does not tell, or if no option is"
    ' right, answer "None of the choices are correct". Reply in two lines, the second of which'
    " repeats the option as it stands:\nReasoning: ...\nAnswer: ...\n\n"
    "Description: {caption}\nQuestion:\n{question}\n"
)

TEMPCOMPASS_MATCHING_SYSTEM = (
    "You compare an answer to a question about a video with the right one. Reply with one word:"
    ' "Correct" if they say the same, else "Incorrect".'
)

TEMPCOMPASS_MATCHING = "Question:\n{question}\nRight answer: {reference}\nAnswer: {answer}"

VSTAR_SYSTEM = (
    "You compare an answer with the right one by their meaning alone, not their grammar. Reply with"
    " one digit. 0: they have nothing in common, the answer is wrong. 1: little, it is mostly"
    " wrong. 2: much, it is mostly right. 3: they mean the same."
)

VSTAR = "Question: {question}\nRight answer: {reference}\nAnswer: {answer}"
