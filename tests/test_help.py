"""`--help` of every command exits with 0, quickly, and imports no framework."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

COMMANDS = (
    "checkpoints_convert.orbax_to_torch",
    "checkpoints_convert.torch_to_orbax",
    "checkpoints_convert.verify",
    "vxlpro_jax.aot.param_report",
    "vxlpro_jax.compile",
    "vxlpro_jax.data.ingest",
    "vxlpro_jax.evals.benchmarks.vstar_chains",
    "vxlpro_jax.evaluate",
    "vxlpro_jax.generate",
    "vxlpro_jax.inspect_data",
    "vxlpro_jax.needle",
    "vxlpro_jax.preflight",
    "vxlpro_jax.prune",
    "vxlpro_jax.score",
    "vxlpro_jax.sweep",
    "vxlpro_jax.train",
)
HELP = """
import json, resource, runpy, sys

sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    used = resource.getrusage(resource.RUSAGE_SELF)
    modules = [name for name in ("jax", "torch", "matplotlib", "tensorflow") if name in sys.modules]
    found = {"code": end.code, "seconds": used.ru_utime + used.ru_stime, "modules": modules}
    print(json.dumps(found), file=sys.stderr)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_imports_no_framework(command):
    done = subprocess.run(
        [sys.executable, "-c", HELP, command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stderr.splitlines()[-1])
    assert (found["code"] or 0, found["modules"]) == (0, [])
    assert found["seconds"] < 2
    assert "--" in done.stdout
