# fastft and nothing to build it with:
#
#   docker build -t fastft .
#   docker run --rm --shm-size 2g -v "$PWD:/work" fastft convert photos data
#   docker run --rm --shm-size 2g --gpus all -v "$PWD:/work" fastft train --data data --out run
#
# torch is the one of pip's index, built with CUDA: it runs with a GPU and without. For CPUs alone,
# in a fifth of the size: --build-arg TORCH_INDEX=URL, with PyTorch's index for the CPU, and
# --build-arg EXTRAS=export,data. BASE is any Debian or Ubuntu with a Python of 3.10 to 3.13.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS wheel
COPY pyproject.toml README.md LICENSE /src/
COPY fastft /src/fastft
COPY pipelines /src/pipelines
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist /src

FROM ${BASE} AS environment
ARG TORCH_INDEX=
ARG EXTRAS=dali,data,export,tensorboard,timm
COPY --from=wheel /dist /dist
RUN python3 -m venv /opt/fastft \
    && if [ -n "$TORCH_INDEX" ]; then \
        /opt/fastft/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; \
    fi \
    && /opt/fastft/bin/pip install --no-cache-dir "$(ls /dist/*.whl)[$EXTRAS]"

FROM ${BASE}
# The compiler is Triton's, for its link to a GPU's driver; the library decodes JPEGs faster.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libturbojpeg0 \
    && rm -rf /var/lib/apt/lists/*
# Compiled kernels are kept in the home, whoever --user says is there.
RUN useradd --uid 1000 --create-home fastft \
    && chmod 1777 /home/fastft \
    && install -d -o fastft -g fastft /work
COPY --from=environment /opt/fastft /opt/fastft
ENV PATH=/opt/fastft/bin:$PATH HOME=/home/fastft USER=fastft
USER fastft
WORKDIR /work
ENTRYPOINT ["fastft"]
CMD ["--help"]
