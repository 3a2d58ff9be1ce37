"""Only the steps that the flag names are profiled."""

import jax.numpy as jnp
import pytest

from vxlpro_jax.training.profiler import Profiler
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow


def run(profiler, steps):
    for step in range(1, steps + 1):
        profiler.before(step)
        profiler.after(step, jnp.ones(3) * step)


def test_steps_of_the_window_are_traced(tmp_path, capsys):
    run(Profiler.from_flag("2:2", folder=tmp_path / "profile"), steps=4)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "Profile of steps 2 to 3" in capsys.readouterr().out


@pytest.mark.parametrize("window", ["", "9:2", "2:0"])
def test_a_window_without_steps_leaves_no_trace(tmp_path, window):
    run(Profiler.from_flag(window, folder=tmp_path / "profile"), steps=4)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("window", ["3", "a:2", "-1:2", "1:2:3"])
def test_malformed_windows_are_refused(tmp_path, window):
    with pytest.raises(InputError, match="give FIRST:COUNT"):
        Profiler.from_flag(window, folder=tmp_path)
