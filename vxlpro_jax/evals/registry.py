"""Benchmarks by name."""

from collections.abc import Callable, Mapping

from vxlpro_jax.evals.benchmarks import (
    charades_sta,
    longvideobench,
    mlvu,
    tempcompass,
    videomme,
    vnbench,
    vstar,
)
from vxlpro_jax.evals.scoring import Benchmark
from vxlpro_jax.utils.errors import InputError

PLAIN: Mapping[str, Benchmark] = {
    "mlvu_dev": mlvu.DEV,
    "mlvu_test": mlvu.TEST,
    "videomme": videomme.VIDEOMME,
    "videomme_subtitles": videomme.WITH_SUBTITLES,
    "longvideobench": longvideobench.LONGVIDEOBENCH,
    "tempcompass_multi_choice": tempcompass.MULTI_CHOICE,
    "tempcompass_yes_no": tempcompass.YES_NO,
    "tempcompass_caption_matching": tempcompass.CAPTION_MATCHING,
    "tempcompass_captioning": tempcompass.CAPTIONING,
    "vnbench": vnbench.VNBENCH,
    "charades_sta": charades_sta.CHARADES_STA,
}
CHAINED: Mapping[str, Callable[[int], Benchmark]] = {
    "vstar_what": vstar.what,
    "vstar_when": vstar.when,
    "vstar_where": vstar.where,
}
NAMES = (*PLAIN, *CHAINED)
CHAINS = (1, 2)
TEMPORAL = ("charades_sta", "vstar_when")


def find(name: str, *, chain: int | None = None) -> Benchmark:
    """A benchmark; those of V-STaR by the `chain` of questions, 1 if None.

    Raises:
        InputError: the name is unknown, or a chain is given to a benchmark without.
    """
    if name in CHAINED:
        return CHAINED[name](chain or 1)
    if name not in PLAIN:
        raise InputError(f"Benchmark {name!r} is unknown: choose one of {', '.join(NAMES)}.")
    if chain is not None:
        raise InputError(f"Benchmark {name} has no chains: leave --chain to {', '.join(CHAINED)}.")
    return PLAIN[name]
