"""The folders ("rooms") of the package, the imports allowed between them, and their measures.

`python tests/support/house.py` prints the number of entries of `vxlpro_jax/`, the longest path of
imports between rooms, the number of imports between rooms, and any cycles.
"""

import ast
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "vxlpro_jax"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}

_FOUNDATION = ("utils", "config")
_BELOW_OPS = (*_FOUNDATION, "data", "sharding", "checkpoints")
_BELOW_TRAINING = (*_BELOW_OPS, "ops", "models", "distributed")
_BELOW_EVALS = (*_BELOW_TRAINING, "training", "inference")
_ALL_ROOMS = (*_BELOW_EVALS, "evals", "curation", "aot")

# Each room and the other rooms that it may import. Every folder of the package is one of these or a
# command.
ROOMS: dict[str, tuple[str, ...]] = {
    "utils": (),
    "config": ("utils",),
    "distributed": ("utils",),
    "data": _FOUNDATION,
    "sharding": _FOUNDATION,
    "checkpoints": _FOUNDATION,
    "ops": _BELOW_OPS,
    "models": (*_BELOW_OPS, "ops"),
    "training": _BELOW_TRAINING,
    "inference": _BELOW_TRAINING,
    "evals": _BELOW_EVALS,
    "curation": _BELOW_EVALS,
    "aot": _BELOW_EVALS,
}
# Commands may import every room. No room and no other command imports a command.
COMMANDS = (
    "compile",
    "evaluate",
    "generate",
    "inspect_data",
    "needle",
    "preflight",
    "prune",
    "score",
    "sweep",
    "train",
)
# The package's `vxlpro_jax/__init__.py` and the console script, which starts the commands.
FRONT = ("", "__main__")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    **ROOMS,
    **dict.fromkeys(COMMANDS, (*_ALL_ROOMS, "")),
    "": _ALL_ROOMS,
    "__main__": (*_ALL_ROOMS, *COMMANDS, ""),
}

MAX_ENTRIES = 26


def room_of(module: str) -> str:
    """Returns the package's folder or file with a module; empty for the package's `__init__`."""
    return module.split(".")[1] if "." in module else ""


@functools.cache
def imports_of(path: Path, *, at_run_time: bool = False) -> frozenset[str]:
    """Returns all modules that a file may import, also inside functions, with aliases resolved.

    With `at_run_time`, imports only for type checkers (`if TYPE_CHECKING:`) are left out.
    """
    found: set[str] = set()
    source = ast.parse(path.read_text())
    for node in ast.walk(_WithoutTyping().visit(source) if at_run_time else source):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return frozenset(found)


class _WithoutTyping(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        is_typing = ast.unparse(node.test).endswith("TYPE_CHECKING")
        return node.orelse if is_typing else self.generic_visit(node)


def graph() -> dict[str, set[str]]:
    """Returns the modules of the package that each module imports."""
    return {
        module: {name for name in imports_of(path) if name in MODULES} - {module}
        for module, path in MODULES.items()
    }


def all_imports_of(modules: Iterable[str]) -> set[str]:
    """Returns all direct and indirect imports of modules, including their parent packages."""
    found: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module in found:
            continue
        found.add(module)
        if module in MODULES:
            parents = module.rpartition(".")[0]
            pending += imports_of(MODULES[module], at_run_time=True)
            pending += [parents] if parents else []
    return found


def arrows() -> dict[str, set[str]]:
    """Returns the rooms, commands and front files that each of them imports."""
    found: dict[str, set[str]] = {room_of(module): set() for module in MODULES}
    for module, names in graph().items():
        found[room_of(module)] |= {room_of(name) for name in names} - {room_of(module)}
    return found


def in_cycles(edges: Mapping[str, set[str]]) -> list[str]:
    """Returns the nodes that are on a cycle or above one; empty if there is none."""
    left = dict(edges)
    while free := [node for node, names in left.items() if not names & left.keys()]:
        for node in free:
            del left[node]
    return sorted(left)


def storeys(edges: Mapping[str, set[str]]) -> list[str]:
    """Returns the longest path of imports, from the top down. There must be no cycle."""

    @functools.cache
    def below(node: str) -> tuple[str, ...]:
        return (node, *max(map(below, sorted(edges[node])), key=len, default=()))

    return list(max(map(below, sorted(edges)), key=len))


def entries() -> list[str]:
    """Returns the output of `ls vxlpro_jax` in a fresh checkout."""
    return sorted(
        path.name for path in (ROOT / PACKAGE).iterdir() if not path.name.startswith((".", "__py"))
    )


def main() -> None:
    """Prints the measures."""
    edges = arrows()
    rooms = {room: names & ROOMS.keys() for room, names in edges.items() if room in ROOMS}
    print(f"{len(entries())} entries: {' '.join(entries())}")
    cycle = in_cycles(edges) or in_cycles(graph())
    if not cycle:
        path = storeys({room: names - set(FRONT) for room, names in edges.items()})
        print(f"{len(path)} storeys: {' > '.join(path)}")
    print(f"{sum(map(len, rooms.values()))} arrows between {len(rooms)} rooms:")
    for room, names in rooms.items():
        print(f"  {room} -> {', '.join(sorted(names)) or 'none'}")
    print(f"cycles: {', '.join(cycle) or 'none'}")


if __name__ == "__main__":
    main()
