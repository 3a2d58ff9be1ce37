"""Proves a conversion: tensor by tensor, or stage by stage on inputs of the released code.

`python -m checkpoints_convert.verify --torch DIR --orbax DIR`
`python -m checkpoints_convert.verify --orbax DIR --golden FILE.npz [--dtype float64|float32]`
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from checkpoints_convert import golden, verify_tensors
from checkpoints_convert.cli import run
from vxlpro_jax.utils.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Prints the report; 1 when anything differs, else 0."""
    args = parse_arguments(argv)
    if args.golden:
        rows = check_golden(args)
        ok = all(row.ok for row in rows)
        print(golden_table(rows))
        report = {"ok": ok, "stages": [row._asdict() for row in rows]}
    else:
        result = verify_tensors.compare(torch=args.torch, orbax=args.orbax)
        ok = result.ok
        print(verify_tensors.to_markdown(result))
        report = verify_tensors.to_json(result)
    if args.json:
        _write_json(report, args.json)
    return 0 if ok else 1


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m checkpoints_convert.verify", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--orbax", required=True, type=Path, help="model folder or training folder")
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("--torch", type=Path, help="release-format folder")
    against.add_argument("--golden", type=Path, help="inputs and stages of the released code")
    add("--dtype", choices=tuple(golden.DEFAULTS), default="float64", help="of the golden run")
    add("--atol", type=float, help="of every golden stage, times its largest value if over 1")
    add("--rtol_grad", type=float, help="of every golden gradient norm")
    add("--json", type=Path, help="also write the report here")
    return parser.parse_args(argv)


def check_golden(args: argparse.Namespace) -> list[golden.Row]:
    """The rows of a golden comparison.

    Raises:
        InputError: the file has no field that can be compared.
    """
    jax.config.update("jax_enable_x64", args.dtype == "float64")
    tolerance = golden.DEFAULTS[args.dtype]
    if args.atol is not None:
        tolerance = dataclasses.replace(tolerance, before=args.atol, after=args.atol)
    if args.rtol_grad is not None:
        tolerance = dataclasses.replace(tolerance, grad=args.rtol_grad)
    case = golden.read_case(args.golden)
    rows = golden.compare(args.orbax, case, dtype=args.dtype, tolerance=tolerance)
    if not rows:
        raise InputError(f"{args.golden} has no stage with its inputs: nothing was compared.")
    return rows


def golden_table(rows: Sequence[golden.Row]) -> str:
    """One Markdown row a stage."""
    lines = ["| stage | max abs difference | max abs reference | ok |", "| --- | --- | --- | --- |"]
    for row in rows:
        ok = "ok" if row.ok else "FAIL"
        lines.append(f"| {row.stage} | {row.difference:.3g} | {row.reference:.6g} | {ok} |")
    return "\n".join(lines)


def _write_json(report: dict[str, Any], file: Path) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(report, indent=2, default=str))
    partial.replace(file)


if __name__ == "__main__":
    run(main)
