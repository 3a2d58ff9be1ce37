"""Converts TFRecord shards of tf.train.Example to ArrayRecord shards: `bash launch/ingest.sh`.

An example has the features `id`, `conversations` (LLaVA's JSON) and `video`, which is the content
of a video file or its path under data.video_root. Each source shard becomes one ArrayRecord shard
of its valid records, in the same order; if several records have the same id, only the first is
kept. The output folder also holds `manifest.json` and `bad_records.jsonl`. The output is the same,
byte for byte, for any number of workers and after any number of restarts.

Nothing in `vxlpro_jax.data.ingest` imports JAX or needs it installed.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vxlpro_jax.data.ingest.run import ingest
from vxlpro_jax.data.ingest.workers import IngestError
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    arguments = _parse(argv)
    try:
        manifest = ingest(
            arguments.shards,
            out=arguments.out,
            workers=arguments.workers,
            max_bad=arguments.max_bad,
        )
    except (InputError, IngestError) as error:
        return cli.report_error(error)
    except OSError as error:
        print(f"error: {error}. Correct this and start the command again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    bad = ", ".join(f"{count} {kind}" for kind, count in manifest["bad"].items()) or "none"
    print(
        f"{arguments.out} holds {manifest['records']} records. Bad: {bad}; lost after damage:"
        f" about {manifest['lost']}."
    )
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="launch/ingest.sh",
        description="Converts TFRecord shards of tf.train.Example to ArrayRecord shards.",
    )
    parser.add_argument(
        "shards",
        nargs="+",
        help="local paths or URLs (http, https, s3, gs, az); {a,b} and {000..099} are expanded, and"
        " so is * except on an HTTP server; @FILE reads one shard per line from a file",
    )
    parser.add_argument("--out", type=Path, required=True, help="local output folder")
    parser.add_argument(
        "--workers",
        type=_positive_integer,
        default=os.cpu_count() or 1,
        help="number of processes; each reads one shard at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--max_bad",
        type=_share,
        default=0.01,
        help="share of the records that may be bad or lost (default: %(default)s)",
    )
    return parser.parse_args(argv)


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of processes")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return share


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
