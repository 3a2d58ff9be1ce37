"""Writes files in one step, so that no reader sees an incomplete one."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` under a temporary name beside `path`, then renames it."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
