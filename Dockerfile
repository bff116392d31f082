# Two images from one file: the command line on a processor, and with CUDA.
#
#   docker build --target cpu  -t istvt:cpu .
#   docker build --target cuda -t istvt:cuda .
#   docker run --rm -v "$PWD":/data istvt:cpu predict video.mp4 --checkpoint run
#   docker run --rm --gpus all --ipc=host -v "$PWD":/data istvt:cuda train --data.root set --output run
#
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD":/data istvt:cpu serve --checkpoint run --host 0.0.0.0
#
# Versions are those of setup.py. Files are written by the user 1000; `--user "$(id -u)"` makes them yours. Python 3.11 has the best face detector.
FROM python:3.11-slim-bookworm AS source
WORKDIR /src
COPY setup.py pyproject.toml LICENSE NOTICE README.md ./
COPY kernels kernels
COPY dataloading dataloading
COPY istvt istvt
COPY bench bench

FROM python:3.11-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib HOME=/tmp
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN useradd --uid 1000 --create-home istvt && install -d -o istvt /data
# What `istvt serve`, export and the Hub need comes with EXTRAS; ray, wandb and mlflow are not in it.
ARG EXTRAS=faces,remote,export,hub,serve

FROM base AS cpu
# PyTorch's own build for processors, which lacks three gigabytes of CUDA; any other package is of PyPI.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN --mount=type=bind,from=source,source=/src,target=/src,rw \
    torch="$(sed -n 's/^ *"\(torch==[0-9.]*\)".*/\1/p' /src/setup.py)" \
    && pip install --index-url "$TORCH_INDEX" "$torch" \
    && pip install "/src[$EXTRAS]"
USER 1000
WORKDIR /data
ENTRYPOINT ["istvt"]
CMD ["--help"]

FROM base AS cuda
# The CUDA libraries come with PyTorch's wheels and the driver with the container runtime: `video` is for its decoder.
# Triton compiles what launches its kernels with a C compiler.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=source,source=/src,target=/src,rw pip install "/src[$EXTRAS]"
USER 1000
WORKDIR /data
ENTRYPOINT ["istvt"]
CMD ["--help"]
