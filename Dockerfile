# ecenet on an NVIDIA GPU, by TensorRT:
#   docker build -t ecenet:gpu .
#   docker run --rm --gpus all -p 8000:8000 -v ecenet-cache:/var/cache/ecenet ecenet:gpu
# The first start builds the engine for the GPU that it finds into the volume, which takes minutes. An image for engines
# that were built elsewhere has no builder, which is most of TensorRT: docker build --target runtime -t ecenet:gpu-runtime .
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE_IMAGE} AS python
# hadolint ignore=DL3008 # security fixes of the distribution are wanted; the release is fixed by the base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*

FROM python AS dependencies
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PATH=/opt/ecenet/bin:$PATH
RUN python3 -m venv /opt/ecenet
COPY docker/requirements.build.lock /locks/
RUN pip install --require-hashes -r /locks/requirements.build.lock
ARG EXTRAS=gpu
COPY docker/requirements.${EXTRAS}.lock /locks/
RUN pip install --require-hashes --no-deps --no-build-isolation -r /locks/requirements.${EXTRAS}.lock
# TensorRT's libraries are on NVIDIA's index alone, so their hash is not in the lock; docker/lock-nvidia pins it. Those that build
# engines for Windows are more than 1 GB.
ARG NVIDIA_INDEX=https://pypi.nvidia.com
COPY docker/requirements.nvidia.txt /locks/
RUN if [ "${EXTRAS}" = gpu ]; then \
      pip install --no-deps --only-binary :all: --index-url "${NVIDIA_INDEX}" -r /locks/requirements.nvidia.txt; \
    fi \
 && find /opt/ecenet -name '*_win_*' -name '*nvinfer*' -type f -delete \
 && pip check

# The project apart from its dependencies, so that a change of code changes one small layer.
FROM dependencies AS project
WORKDIR /src
COPY LICENSE README.md pyproject.toml setup.py ./
COPY model_export model_export
COPY models models
COPY service service
COPY trainer trainer
RUN pip install --no-deps --no-build-isolation --root /project .

FROM dependencies AS slim
RUN pip uninstall --yes setuptools ziglang pip

# Engines hold what they need of the builder's kernels. The parser stays: the Python package is linked against it.
FROM slim AS slim-runtime
RUN find /opt/ecenet -name '*nvinfer_builder_resource*' -type f -delete

FROM python AS service
RUN groupadd --gid 10001 ecenet \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ecenet \
 && install --directory --owner 10001 --group 10001 /var/cache/ecenet
ENV PATH=/opt/ecenet/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    ECENET_HOST=0.0.0.0 \
    ECENET_LOG_FORMAT=json \
    ECENET_ENGINE_DIR=/var/cache/ecenet/engines \
    ECENET_STATE_DIR=/var/cache/ecenet/state \
    ECENET_ENGINE=tensorrt
USER 10001:10001
WORKDIR /tmp
VOLUME /var/cache/ecenet
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=20m --retries=3 CMD ["python3", "-I", "/opt/ecenet/healthcheck.py"]
ENTRYPOINT ["/opt/ecenet/entrypoint.sh"]
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ecenet" \
      org.opencontainers.image.description="Semantic segmentation as a service, on NVIDIA GPUs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM service AS runtime
COPY docker/healthcheck.py docker/entrypoint.sh /opt/ecenet/
COPY --from=slim-runtime /opt/ecenet /opt/ecenet
COPY --from=project /project/opt/ecenet /opt/ecenet

FROM service AS builder
COPY docker/healthcheck.py docker/entrypoint.sh /opt/ecenet/
COPY --from=slim /opt/ecenet /opt/ecenet
COPY --from=project /project/opt/ecenet /opt/ecenet
ENV ECENET_BUILD_ENGINE=true
