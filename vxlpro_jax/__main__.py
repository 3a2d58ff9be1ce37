"""Runs a command by its name: `vxlpro train ...` is `python -m vxlpro_jax.train ...`."""

import ast
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from vxlpro_jax.config.parsing import nearest
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError

COMMANDS = {
    "train": "vxlpro_jax.train",
    "generate": "vxlpro_jax.generate",
    "evaluate": "vxlpro_jax.evaluate",
    "needle": "vxlpro_jax.needle",
    "score": "vxlpro_jax.score",
    "preflight": "vxlpro_jax.preflight",
    "compile": "vxlpro_jax.compile",
    "params": "vxlpro_jax.aot.param_report",
    "inspect_data": "vxlpro_jax.inspect_data",
    "prune": "vxlpro_jax.prune",
    "ingest": "vxlpro_jax.data.ingest",
    "sweep": "vxlpro_jax.sweep",
    "assemble": "checkpoints_convert.assemble",
    "convert": "checkpoints_convert.torch_to_orbax",
    "export": "checkpoints_convert.orbax_to_torch",
    "verify": "checkpoints_convert.verify",
}


def main(argv: Sequence[str]) -> int:
    """Runs the command `argv[1]` with the arguments after it, or lists the commands.

    Raises:
        InputError: there is no such command.
    """
    name, *words = argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(f"Usage: vxlpro COMMAND [--help] ...\n\n{command_list()}")
        return 0
    if name not in COMMANDS:
        raise InputError(f"Unknown command {name!r}{nearest(name, COMMANDS)}")
    sys.argv = [f"vxlpro {name}", *words]
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
    return 0


def command_list() -> str:
    """Returns one line per command: its name, and the first sentence of its docstring."""
    width = max(map(len, COMMANDS))
    return "\n".join(f"  {name:<{width}}  {_summary(module)}" for name, module in COMMANDS.items())


def script() -> None:
    """Runs the command line of this process; entry point of the console script `vxlpro`."""
    cli.run(lambda: main(sys.argv))


def _summary(module: str) -> str:
    """Returns the first line of a module's docstring, without importing the module."""
    spec = importlib.util.find_spec(module)
    if spec and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    if spec is None or spec.origin is None:
        return "(not installed)"
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    script()
