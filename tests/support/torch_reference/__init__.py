"""The released model restated in torch: the oracle of the tests and the rival of the benchmarks.

Written from the release's behaviour alone, one sample at a time, sharing nothing with the package
but its sizes. Parameters carry the release's names, and everything follows the parameters' type,
so that a float64 model is float64 throughout. Where the release is wasteful it stays wasteful.
"""

from torch_reference.dts import Dts
from torch_reference.model import Sample, Stages, VideoXLPro
from torch_reference.qwen2 import DecoderLayer
from torch_reference.siglip import SiglipTower

__all__ = ["DecoderLayer", "Dts", "Sample", "SiglipTower", "Stages", "VideoXLPro"]
