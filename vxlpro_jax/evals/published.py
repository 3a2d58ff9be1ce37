"""What is known of published runs: frames and ids that they spend, and the original's figures."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What a question may take.

    Attributes:
        max_frames: of a video; those that sample by time take fewer of shorter ones.
        max_new_tokens: ids of an answer.
        free_text: ids of an answer in the reader's own words, where a benchmark has both kinds.
    """

    max_frames: int
    max_new_tokens: int
    free_text: int | None = None

    def new_tokens_for(self, record: Any) -> int:
        """Ids that the answer to a record may have."""
        is_choice = getattr(record, "is_choice", True)
        return self.max_new_tokens if is_choice else self.free_text or self.max_new_tokens

    def with_limits(self, *, max_frames: int | None, max_new_tokens: int | None) -> Self:
        """This one with the limits that are given."""
        return dataclasses.replace(
            self,
            max_frames=max_frames or self.max_frames,
            max_new_tokens=max_new_tokens or self.max_new_tokens,
            free_text=max_new_tokens or self.free_text,
        )


# Frames: what the model's authors are known to have used, for Video-XL-Pro on V-STaR (a frame a
# second up to an hour) and for its successor elsewhere; 128, as for Video-XL, where nothing is.
# Ids: of the benchmark's script or of lmms-eval, where they tell.
_MLVU = Budget(max_frames=256, max_new_tokens=16, free_text=512)
_VIDEOMME = Budget(max_frames=400, max_new_tokens=16)
_TEMPCOMPASS = Budget(max_frames=128, max_new_tokens=128)
_VSTAR = Budget(max_frames=3600, max_new_tokens=256)
BUDGETS: Mapping[str, Budget] = {
    "mlvu_dev": _MLVU,
    "mlvu_test": _MLVU,
    "videomme": _VIDEOMME,
    "videomme_subtitles": _VIDEOMME,
    "longvideobench": Budget(max_frames=400, max_new_tokens=32),
    "tempcompass_multi_choice": _TEMPCOMPASS,
    "tempcompass_yes_no": _TEMPCOMPASS,
    "tempcompass_caption_matching": _TEMPCOMPASS,
    "tempcompass_captioning": _TEMPCOMPASS,
    "vnbench": Budget(max_frames=256, max_new_tokens=5),
    "charades_sta": Budget(max_frames=128, max_new_tokens=50),
    "vstar_what": _VSTAR,
    "vstar_when": _VSTAR,
    "vstar_where": Budget(max_frames=3600, max_new_tokens=1024),
}

# Of Video-XL-Pro 3B, by the name of our metric. It is not told whether M-Avg of MLVU is macro or
# micro, and which chain of V-STaR was asked.
ORIGINAL: Mapping[str, Mapping[str, float]] = {
    "mlvu_dev": {"macro": 68.1, "judged/G-Avg": 5.27},
    "mlvu_test": {"macro": 46.9, "judged/G-Avg": 4.51},
    "videomme": {"overall": 57.9},
    "videomme_subtitles": {"overall": 62.6},
    "vstar_when": {"m_tIoU": 25.07, "R1@0.7": 15.58},
}
