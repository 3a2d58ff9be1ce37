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


# The rooms of the package and which others each may import, itself aside. Commands stand above all
# of them; what is in no room and is no command yet is not held to anything.
FOUNDATION = ("utils", "config")
BELOW_OPS = (*FOUNDATION, "data", "sharding", "checkpoints")
BELOW_MODELS = (*BELOW_OPS, "ops")
BELOW_TRAINING = (*BELOW_MODELS, "models", "distributed")
BELOW_EVALS = (*BELOW_TRAINING, "training", "inference")
ROOMS: dict[str, tuple[str, ...]] = {
    "utils": (),
    "config": ("utils",),
    "distributed": ("utils",),
    "data": FOUNDATION,
    "sharding": FOUNDATION,
    "checkpoints": FOUNDATION,
    "ops": BELOW_OPS,
    "models": BELOW_MODELS,
    "training": BELOW_TRAINING,
    "inference": BELOW_TRAINING,
    "evals": BELOW_EVALS,
    "curation": BELOW_EVALS,
    "aot": BELOW_EVALS,
}


def room(module: str) -> str:
    """The first folder or file below the package."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_import_only_what_is_below_them(name):
    for module in (module for module in MODULES if room(module) == name):
        allowed = {name, *ROOMS[name]}
        wrong = {other for other in ours(module) if room(other) not in allowed}
        assert not wrong, f"{module} imports {sorted(wrong)}"


@pytest.mark.parametrize("module", MODULES)
def test_no_foreign_framework_and_no_config_file(module):
    forbidden = {"torch", "tensorflow", "transformers", "checkpoints_convert", "configs", "tests"}
    if module == "vxlpro_jax.data.ingest.tfrecord":  # For the environment of launch/ingest.sh.
        forbidden -= {"tensorflow"}
    assert not {name.split(".")[0] for name in imports(MODULES[module])} & forbidden


def test_config_files_import_neither_the_package_nor_jax():
    for path in (ROOT / "configs").glob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert roots <= {"configs", "ml_collections", "typing"}, path


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
    assert not private or module == "vxlpro_jax.utils.jax_internals"


def test_the_graph_has_no_cycle():
    below = {module: ours(module) for module in MODULES}
    while free := [module for module, names in below.items() if not names & below.keys()]:
        for module in free:
            del below[module]
    assert not below, f"in a cycle: {sorted(below)}"
