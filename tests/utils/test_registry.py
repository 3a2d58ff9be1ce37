"""A registry finds modules of a package and entry points of other packages, by name."""

import sys

import pytest

from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.registry import Registry


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry of the colours in a package that is made here: `red` and `green`."""
    package = tmp_path / "colours_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "red.py").write_text("COLOUR = '#f00'")
    (package / "green.py").write_text("COLOUR = '#0f0'")
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry("colours_of_test", attribute="COLOUR", kind="colour")
    for name in [name for name in sys.modules if name.startswith("colours_of_test")]:
        del sys.modules[name]


def test_modules_are_found_by_their_file_names(registry):
    assert registry.names() == ["green", "red"]
    assert registry.find("green") == "#0f0"


def test_listing_the_names_imports_no_module(registry):
    registry.names()
    assert "colours_of_test.red" not in sys.modules


def test_entry_points_of_installed_packages_are_found(registry, tmp_path):
    (tmp_path / "paints.py").write_text("BLUE = '#00f'")
    installed = tmp_path / "paints-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: paints\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[colours_of_test]\nblue = paints:BLUE\n")
    assert registry.names() == ["blue", "green", "red"]
    assert registry.find("blue") == "#00f"


@pytest.mark.parametrize(
    ("name", "end"), [("gren", ": did you mean 'green'?"), ("x", ": known are green, red.")]
)
def test_unknown_names_are_answered_with_the_nearest_or_all(registry, name, end):
    with pytest.raises(InputError) as error:
        registry.find(name)
    assert str(error.value) == f"Unknown colour {name!r}{end}"
