"""The released model rewritten in torch: the reference of the tests and the benchmarks.

It follows the release's behaviour, processes one sample at a time, and shares with the package only
the sizes. Parameters have the release's names, and everything has the parameters' dtype,
so that a float64 model is float64 throughout. Inefficiencies of the release are kept.
"""

from torch_reference.dts import Dts
from torch_reference.model import Sample, Stages, VideoXLPro
from torch_reference.qwen2 import DecoderLayer
from torch_reference.siglip import SiglipTower

__all__ = ["DecoderLayer", "Dts", "Sample", "SiglipTower", "Stages", "VideoXLPro"]
