"""The import graph of the package, read from its syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vxlpro_jax"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(path: Path) -> set[str]:
    """Every module that a file may import, at its top or inside a function; aliases resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def ours(module: str) -> set[str]:
    """What a module imports of the package, its own name left out."""
    return {name for name in imports(MODULES[module]) if name.startswith("vxlpro_jax")} - {module}


def belongs(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a module is of one of the parts; a part's own command stands above it."""
    if name.endswith(".__main__"):
        return False
    return any(name == f"vxlpro_jax.{p}" or name.startswith(f"vxlpro_jax.{p}.") for p in parts)


# Which parts of the package a part may import. What is not listed here stands above all of these.
ALLOWED = {
    "config": (),
    "jit": (),
    "cli": ("config",),
    "tree": ("config",),
    "files": (),
    "chips": ("config",),
    "flops": ("config", "ops"),
    "wall_time": ("files",),
    "profiling": ("config",),
    "metrics": ("chips", "files", "wall_time"),
    "ops": ("config", "jax_private", "ops"),
    "data": ("config", "data", "files"),
    "models": ("config", "ops", "models"),
    "param_store": ("config", "tree"),
    "checkpoint": ("config", "tree", "param_store"),
    "sharding": ("config", "tree"),
    "optim": ("config", "ops"),
    "losses": ("config", "ops"),
    "train_state": (),
    "tasks": ("config", "tree", "ops", "models", "losses"),
    "accumulate": ("ops", "tasks"),
    "train_step": ("config", "accumulate", "flops", "tasks", "optim", "train_state"),
    "warm_start": ("config", "checkpoint"),
    "train_init": ("config", "jit", "optim", "sharding", "tasks", "train_state", "warm_start"),
    "run_config": ("config", "data", "optim", "tasks", "warm_start"),
    "run_folder": ("config", "checkpoint", "files"),
    "budget": ("config", "models"),
    "planning": ("budget", "config", "models", "ops"),
    "sampling": (),
    "overlap": (),
    "calls": ("config", "jit", "models"),
    "token_store": ("cli", "config", "data", "jit", "tree"),
    "encoding": ("calls", "config", "data", "overlap", "token_store"),
    "answering": (
        *("calls", "config", "checkpoint", "data", "encoding", "models", "planning", "sampling"),
        "token_store",
    ),
    "answering_flags": ("models", "planning"),
    "blind": ("config", "checkpoint", "data", "jit", "models", "tasks"),
    "evals": (
        *("config", "cli", "data", "files", "jit", "tree", "models", "ops", "answering", "evals"),
    ),
    "launchers": ("config",),
    "jax_private": ("config",),
    "rendezvous": ("config", "cli", "launchers"),
    "distributed": ("cli", "launchers", "rendezvous", "jax_private"),
    "pulse": ("distributed", "rendezvous"),
    "watchdog": ("config", "cli", "distributed", "pulse", "rendezvous"),
    "preemption": ("distributed",),
    "train_checkpoint": (
        *("config", "jit", "tree", "param_store", "checkpoint", "distributed", "train_state"),
    ),
}


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part):
    modules = [name for name in MODULES if belongs(name, (part,))]
    assert modules
    for module in modules:
        wrong = {name for name in ours(module) if not belongs(name, ALLOWED[part])}
        assert not wrong, f"{module} imports {sorted(wrong)}"


def test_only_commands_stand_above():
    listed = [name for name in MODULES if belongs(name, tuple(ALLOWED))]
    above = set(MODULES) - set(listed) - {"vxlpro_jax"}
    importers = {name for name in MODULES for imported in ours(name) if imported in above}
    assert importers <= above, "a part below imports a command"


@pytest.mark.parametrize("module", MODULES)
def test_no_foreign_framework_and_no_config_file(module):
    forbidden = {"torch", "tensorflow", "transformers", "checkpoints_convert", "configs", "tests"}
    if module == "vxlpro_jax.data.tfrecord":  # For the environment of launch/ingest.sh.
        forbidden -= {"tensorflow"}
    assert not {name.split(".")[0] for name in imports(MODULES[module])} & forbidden


def test_config_files_import_neither_the_package_nor_jax():
    for path in (ROOT / "configs").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= {"configs", "ml_collections"}


@pytest.mark.parametrize("module", MODULES)
def test_mesh_is_never_entered_as_a_context(module):
    """`with mesh:` silently drops activation constraints; `jax.set_mesh` does not."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                name = ast.unparse(item.context_expr).split(".")[-1]
                assert not name.lower().endswith("mesh"), f"{module}, line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_private_names_of_jax_are_used_in_one_file_only(module):
    private = [name for name in imports(MODULES[module]) if name.startswith("jax._src")]
    assert not private or module == "vxlpro_jax.jax_private"


def test_the_graph_has_no_cycle():
    below = {module: ours(module) for module in MODULES}
    while free := [module for module, names in below.items() if not names & below.keys()]:
        for module in free:
            del below[module]
    assert not below, f"in a cycle: {sorted(below)}"
