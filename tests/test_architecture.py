"""Tests the rules of the package's imports by its syntax trees; the table is in `house`."""

import ast

import house


def test_every_folder_and_file_is_in_the_table():
    listed = house.MAY_IMPORT.keys()
    assert {house.room_of(module) for module in house.MODULES} <= listed
    folders = {path.name for path in (house.ROOT / house.PACKAGE).iterdir() if path.is_dir()}
    assert {name for name in folders if not name.startswith((".", "__py"))} <= listed
    assert len(house.entries()) <= house.MAX_ENTRIES


def test_rooms_and_commands_import_only_what_is_below_them():
    wrong = [
        f"{module} imports {name}"
        for module, names in house.graph().items()
        for name in sorted(names)
        if house.room_of(name)
        not in (house.room_of(module), *house.MAY_IMPORT.get(house.room_of(module), ()))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_graph_has_no_cycle():
    assert not house.in_cycles(house.graph())
    assert not house.in_cycles(house.arrows())


def test_what_runs_without_jax_does_not_import_it():
    """Indirect imports count too: the environment of ingest or of a judge may lack JAX."""
    forbidden = {"jax", "jaxlib", "flax", "optax", "orbax"}
    ingest = [module for module in house.MODULES if module.startswith("vxlpro_jax.data.ingest.")]
    for modules in (ingest, ["vxlpro_jax.score"], ["vxlpro_jax.config.schema"]):
        found = {name for name in house.all_imports_of(modules) if name.split(".")[0] in forbidden}
        assert not found, f"{modules} import {sorted(found)}"


def test_no_module_imports_another_framework_or_what_is_outside():
    forbidden = {"torch", "tensorflow", "transformers", "checkpoints_convert", "configs", "tests"}
    wrong = {
        f"{module} imports {name}"
        for module, path in house.MODULES.items()
        for name in house.imports_of(path)
        if name.split(".")[0] in forbidden
    }
    # It runs in the environment of launch/ingest.sh.
    assert wrong <= {"vxlpro_jax.data.ingest.tfrecord imports tensorflow"}


def test_config_files_import_neither_the_package_nor_jax():
    for path in (house.ROOT / "configs").glob("*.py"):
        roots = {name.split(".")[0] for name in house.imports_of(path)}
        assert roots <= {"configs", "ml_collections", "typing"}, path


def test_private_names_of_jax_are_used_in_one_file_only():
    users = {
        module
        for module, path in house.MODULES.items()
        if any(name.startswith("jax._src") for name in house.imports_of(path))
    }
    assert users == {"vxlpro_jax.utils.jax_internals"}


def test_the_mesh_is_never_entered_as_a_context():
    """`with mesh:` silently drops activation constraints; `jax.set_mesh` does not."""
    wrong = [
        f"{module}, line {node.lineno}"
        for module, path in house.MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.With | ast.AsyncWith)
        and any(_name_of(item).endswith("mesh") for item in node.items)
    ]
    assert not wrong, "\n".join(wrong)


def _name_of(item: ast.withitem) -> str:
    return ast.unparse(item.context_expr).split(".")[-1].lower()
