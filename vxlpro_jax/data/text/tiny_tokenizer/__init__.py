"""The tiny preset's tokenizer: built like Qwen2.5's, trained on the embedded clips' text.

`tokenizer.json` beside this file is the saved result of `data.synthetic.train_tokenizer.train`.
"""

from pathlib import Path

TINY_TOKENIZER = Path(__file__).parent
