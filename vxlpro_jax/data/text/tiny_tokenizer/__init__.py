"""The tiny preset's tokenizer: Qwen2.5's method, trained on the embedded clips' own text.

`tokenizer.json` beside this file is what `data.synthetic.train_tokenizer.train` returns, saved.
"""

from pathlib import Path

TINY_TOKENIZER = Path(__file__).parent
