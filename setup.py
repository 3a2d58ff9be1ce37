"""Packaging of vxlpro_jax."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "vxlpro_jax" / "__init__.py").read_text()
).group(1)

CONVERT = ["torch>=2.8"]
HTTP_AND_S3 = ["aiohttp>=3.10", "fsspec>=2025.2", "s3fs>=2025.2"]
TEST = [
    *CONVERT,
    *HTTP_AND_S3,
    "dashscope>=1.20",  # only for the vocabulary file of Qwen2.5 that it ships
    "jax[tpu]>=0.10",  # for the compiler alone; no TPU is needed
    "flask>=3.0",  # these two and moto are the S3 server that ingest is tested with
    "flask-cors>=5.0",
    "kubernetes-validate>=1.37",  # schemas that launch files are held to; brings jsonschema
    "moto[s3]>=5.0",
    "pytest>=8.0",
    "pytest-xdist>=3.8",
    "tensorboardX>=2.6",  # only to read back what is written for TensorBoard
    "transformers>=4.56",
]
DOCS = [
    "mkdocs-material>=9.8",
    "mkdocstrings[python]>=1.0",
    "ruff>=0.14",  # breaks long signatures into lines
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
        "absl-py>=2.1",
        "array-record>=0.6",
        "av>=14.0",
        "einops>=0.8",
        "etils[epath]>=1.12",
        "flax>=0.12",
        "grain>=0.2.12",
        "jax>=0.10",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=11.0",
        "pyarrow>=17.0",  # Video-MME is published as Parquet
        "pyyaml>=6.0",
        "tensorstore>=0.1.80",
        "tokenizers>=0.22",
        "tqdm>=4.66",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10"],
        "gpu": ["jax[cuda13]>=0.10"],
        "convert": CONVERT,
        "remote": [*HTTP_AND_S3, "gcsfs>=2025.2"],
        "test": TEST,
        "docs": DOCS,
        "dev": [*TEST, *DOCS, "pyright[nodejs]>=1.1.414"],
    },
)
