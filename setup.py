"""Packaging of vxlpro_jax."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "vxlpro_jax" / "__init__.py").read_text()
).group(1)

# Two stacks are tested. On Python 3.11, the last versions that it gets, which are the lower bounds
# here: older ones fail (PyAV before 18.1 has no `field_order`) or are not tried. On Python 3.13
# and later, the newest (`.ci/newest_stack`): jax 0.12, flax 0.12.12, numpy 2.5, PyAV 19.
CONVERT = ["torch>=2.13"]
HTTP_AND_S3 = ["aiohttp>=3.14", "fsspec>=2026.9", "s3fs>=2026.9"]
FAST_TEST = [  # for the tests that are neither marked slow nor torch
    "aiohttp>=3.14",
    "dashscope>=2.0",  # only for the vocabulary file of Qwen2.5 that it ships
    "hypothesis>=6.170",
    "kubernetes-validate>=1.37",  # schemas that launch files are held to; brings jsonschema
    "pytest>=9.2",
    "pytest-xdist>=3.8",
]
TEST = [
    *CONVERT,
    *HTTP_AND_S3,
    *FAST_TEST,
    # Without it pip takes the newest boto3 for moto, and tries every release of aiobotocore, whose
    # botocore is an older one.
    "aiobotocore[boto3]>=3.10",
    "jax[tpu]>=0.10.2",  # for the compiler alone; no TPU is needed
    "flask>=3.1",  # these two and moto are the S3 server that ingest is tested with
    "flask-cors>=6.0",
    "moto[s3]>=5.2",
    "tensorboardX>=2.6.5",  # only to read back what is written for TensorBoard
    "transformers>=5.24",
]
DOCS = [
    "mkdocs-material>=9.8",
    "mkdocstrings[python]>=1.0",
    "ruff>=0.17.6",  # breaks long signatures into lines
]

setup(
    name="vxlpro_jax",
    version=VERSION,
    description="Video-XL-Pro in JAX/Flax: train, convert and run long-video language models.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["vxlpro_jax*", "checkpoints_convert*", "configs*"]),
    package_data={
        "vxlpro_jax": ["py.typed"],
        "vxlpro_jax.data.text.tiny_tokenizer": ["tokenizer.json"],
        "vxlpro_jax.data.video": ["known_good.mp4"],
    },
    entry_points={"console_scripts": ["vxlpro = vxlpro_jax.__main__:script"]},
    install_requires=[
        "absl-py>=2.5",
        "array-record>=0.8.6",
        "av>=18.1",
        "einops>=0.8.2",
        "etils[epath]>=1.15",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10.2",
        "matplotlib>=3.11",
        "ml-collections>=1.1",
        "numpy>=2.4",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=13.0",
        "pyarrow>=26.0",  # Video-MME is published as Parquet
        "pyyaml>=6.0.4",
        "tensorstore>=0.1.86",
        "tokenizers>=0.23.3",
        "tqdm>=4.70",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2"],
        "gpu": ["jax[cuda13]>=0.10.2"],
        "convert": CONVERT,
        "remote": [*HTTP_AND_S3, "gcsfs>=2025.2"],
        "fast_test": FAST_TEST,
        "test": TEST,
        "docs": DOCS,
        "dev": [*TEST, *DOCS, "pyright[nodejs]>=1.1.414"],
    },
)
