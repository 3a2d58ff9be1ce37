import pytest

from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError


class Shaped:
    def __init__(self, *shape):
        self.shape = shape


def test_unflatten_inverts_flatten():
    nested = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert tree.flatten(nested) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert tree.unflatten(tree.flatten(nested)) == nested


def test_matching_trees_pass():
    tree.check_match({"a": Shaped(2, 3)}, expected={"a": Shaped(2, 3)}, trouble="No")


def test_every_difference_is_named():
    found = {"a": Shaped(1), "b": Shaped(2, 3), "d": Shaped(1)}
    expected = {"a": Shaped(1), "b": Shaped(3, 2), "c": Shaped(1)}
    told = "It does not fit: missing: c; unexpected: d; wrong shape: b (2, 3) instead of (3, 2)."
    with pytest.raises(InputError) as error:
        tree.check_match(found, expected=expected, trouble="It does not fit")
    assert str(error.value) == told
