"""Verifies a conversion: tensor by tensor, or stage by stage on inputs of the released code.

`python -m checkpoints_convert.verify --torch DIR --orbax DIR`
`python -m checkpoints_convert.verify --orbax DIR --golden FILE.npz [--dtype float64|float32]`
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoints_convert import cli
from checkpoints_convert.tolerances import DEFAULTS
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Prints the report; returns 1 if anything differs, else 0."""
    args = parse_arguments(argv)
    report = _golden(args) if args.golden else _tensors(args)
    if args.json:
        _write_json(report, args.json)
    return 0 if report["ok"] else 1


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; argparse itself exits with 2 on a mistake."""
    parser = ArgumentParser(
        prog="python -m checkpoints_convert.verify", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--orbax", required=True, type=Path, help="model folder or training folder")
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("--torch", type=Path, help="release-format folder")
    against.add_argument(
        "--golden", type=Path, help="`.npz` of inputs and intermediate results of the released code"
    )
    add(
        "--dtype",
        choices=tuple(DEFAULTS),
        default="float64",
        help="dtype of the golden comparison (default: float64)",
    )
    add(
        "--atol",
        type=float,
        help="tolerance of golden stages, relative to the largest value if that exceeds 1",
    )
    add("--rtol_grad", type=float, help="relative tolerance of golden gradient norms")
    add("--json", type=Path, help="file to which the report is also written, as JSON")
    return parser.parse_args(argv)


def _golden(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the report of a golden comparison."""
    import jax  # Imported here, because --help does not need it.

    from checkpoints_convert import golden

    jax.config.update("jax_enable_x64", args.dtype == "float64")
    tolerance = DEFAULTS[args.dtype]
    if args.atol is not None:
        tolerance = dataclasses.replace(tolerance, before=args.atol, after=args.atol)
    if args.rtol_grad is not None:
        tolerance = dataclasses.replace(tolerance, grad=args.rtol_grad)
    case = golden.read_case(args.golden)
    rows = golden.compare(args.orbax, case, dtype=args.dtype, tolerance=tolerance)
    if not rows:
        raise InputError(f"{args.golden} has no stage with its inputs: nothing was compared.")
    print(golden.to_markdown(rows))
    return golden.to_json(rows)


def _tensors(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the report of a comparison of two checkpoints."""
    from checkpoints_convert import verify_tensors  # Imports JAX.

    result = verify_tensors.compare(torch=args.torch, orbax=args.orbax)
    print(verify_tensors.to_markdown(result))
    return verify_tensors.to_json(result)


def _write_json(report: dict[str, Any], file: Path) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(report, indent=2, default=str))
    partial.replace(file)


if __name__ == "__main__":
    cli.run(main)
