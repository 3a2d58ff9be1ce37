"""Writes invented annotation files in the published formats, with their videos and subtitles."""

import json
from pathlib import Path

from helpers import write_clip

SRT = """1
00:00:00,000 --> 00:00:01,000
<font color="white" size=".72c">hello</font>

2
00:09:00,000 --> 00:09:01,000
<font color="white" size=".72c">never</font>
"""

_MLVU = [
    {
        **{"video": "a.mp4", "question": "Which animal?", "candidates": ["goat", "horse"]},
        **{"answer": "horse", "question_type": "plotQA", "question_id": "PQA_0"},
    },
    {
        **{"video": "b.mp4", "question": "How many?", "candidates": ["1", "2"], "answer": "1"},
        **{"question_type": "count", "question_id": "AC_0"},
    },
    {
        **{"video": "a.mp4", "question": "What does he do?", "question_type": "subPlot"},
        **{"answer": "runs", "scoring_points": ["he runs", "far"], "question_id": "SP_0"},
    },
    {
        **{"video": "b.mp4", "question": "Tell.", "answer": "A cat.", "question_type": "summary"},
        **{"question_id": "VS_0"},
    },
]
_VIDEOMME = [
    {
        **{"video_id": "1", "duration": "short", "domain": "Life", "sub_category": "Travel"},
        **{"videoID": video, "question_id": f"1-{i}", "task_type": "Counting Problem"},
        **{"question": "How many?", "options": ["A. 1.", "B. 2.", "C. 4.", "D. 6."]},
        "answer": "B",
    }
    for i, video in enumerate("aab")
]
_LONGVIDEOBENCH = [
    {
        **{"video_id": "a", "question": "Which?", "candidates": ["x", "y", "z"], "id": f"a_{i}"},
        **{"correct_choice": 1, "question_category": "T2E", "duration_group": 15},
        "video_path": "a.mp4",
    }
    for i in range(2)
]
_VNBENCH = [
    {
        **{"video": "./VNBench/a.mp4", "question": "How many?", "options": [2, 5, 3, 4], "gt": 3},
        **{"gt_option": "C", "type": "cnt_insert1", "try": i},
    }
    for i in range(4)
]
_VSTAR = [
    {
        **{"vid": video, "domain": "Sports", "fps": 2.0, "width": 64, "height": 64},
        **{"frame_count": 8, "question": "What is thrown?", "answer": "a ball"},
        **{"temporal_question": "When?", "timestamps": [1.0, 3.0]},
        **{"spatial_question": "Where in 1-3 s?", "spatial_question_2": "Where?"},
        "bboxes": [{"timestamp": 1, "xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9}],
    }
    for video in "ab"
]


def _tempcompass(question, answer):
    asked = [{"question": question, "answer": answer}]
    return {"a": {"direction": asked, "speed": asked}, "b": {"order": asked}}


_CHOICE = _tempcompass("Where to?\nA. up\nB. down", "B. down")

# Paths of the files that `write_videos` writes.
_QUESTIONS = [
    {"video": "1_plotQA/a.mp4", "question": "Which?", "options": ["cat", "dog"], "answer": "dog"},
    {"video": "1_plotQA/a.mp4", "question": "When?", "spans": [[0.5, 1.5]], "group": "time"},
    {"video": "b.mp4", "question": "What?", "answer": "A ball.", "group": "text"},
]

ANNOTATIONS = {
    "questions": _QUESTIONS,
    "mlvu_dev": _MLVU,
    "mlvu_test": _MLVU,
    "videomme": _VIDEOMME,
    "videomme_subtitles": _VIDEOMME,
    "longvideobench": _LONGVIDEOBENCH,
    "tempcompass_multi_choice": _CHOICE,
    "tempcompass_yes_no": _tempcompass("Is it up?", "no"),
    "tempcompass_caption_matching": _tempcompass(
        "Which?\nCaption A: a cat\nCaption B: a dog", "Caption A: a cat"
    ),
    "tempcompass_captioning": _tempcompass("Describe it. Generated Caption:", ""),
    "vnbench": _VNBENCH,
    "charades_sta": [
        {"video": f"{video}.mp4", "caption": "person sits.", "timestamp": [1.0, 3.0]}
        for video in "aab"
    ],
    "vstar_what": _VSTAR,
    "vstar_when": _VSTAR,
    "vstar_where": _VSTAR,
}


def write_videos(folder: Path) -> Path:
    """Writes `a.mp4` in a subfolder and `b.mp4`, of 8 and 5 frames at two per second."""
    (folder / "1_plotQA").mkdir(parents=True)
    write_clip(folder / "1_plotQA" / "a.mp4", frames=8, seed=1)
    write_clip(folder / "b.mp4", frames=5, seed=2)
    return folder


def write_annotations(name: str, folder: Path) -> Path:
    """Writes the annotations of a benchmark; with captions also the multiple-choice questions."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(ANNOTATIONS[name]))
    if name == "tempcompass_captioning":
        (folder / "multi-choice.json").write_text(json.dumps(_CHOICE))
    return path


def write_subtitles(folder: Path) -> Path:
    """Writes an SRT file for `a.mp4` only."""
    folder.mkdir()
    (folder / "a.srt").write_text(SRT)
    return folder
