"""Package metadata of revit_video; the settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "revit_video/__init__.py").read_text()).group(1)

# decord has wheels for x86-64 (and old macOS) only; it is a reader by choice, never a requirement to import.
DECORD = 'decord>=0.6.0; platform_machine == "x86_64" or platform_machine == "AMD64"'

setup(
    name="revit_video",
    version=VERSION,
    description="Video action recognition that spends tokens where the clip needs them (ReViT)",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["revit_video", "revit_video.*"]),
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "timm>=1.0.20",
        "numpy",
        "av>=17.1",
        "einops>=0.8",
        "fvcore>=0.1.5.post20221221",
        "omegaconf>=2.3",
        "rich>=13",
        "pillow>=10.1",
        "safetensors>=0.4",
        "tensorboard>=2.16",
        "matplotlib>=3.8",
        DECORD,
    ],
    extras_require={
        "baselines": ["pytorchvideo==0.1.5"],
        "test": [
            "pytorchvideo==0.1.5",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "scipy>=1.11",
            "submitit>=1.5",
            "transformers>=4.50",
            "webdataset>=1",
        ],
        "torchcodec": ["torchcodec>=0.13"],
        "rivals": ["scipy>=1.11"],  # thresholds of DVT by differential evolution
        "slurm": ["submitit>=1.5"],
        "wandb": ["wandb>=0.17"],
        "web": ["gradio>=5"],
        "export": ["onnx>=1.17", "onnxscript>=0.3"],
    },
    entry_points={"console_scripts": ["revit-video=revit_video.cli:main"]},
)
