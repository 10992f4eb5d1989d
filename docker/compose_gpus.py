#!/usr/bin/env python3
"""Compose file for a machine with several GPUs: one service per GPU, all behind the name ``ecenet``.

    docker/compose_gpus.py 4 > docker/compose.gpus.yaml
    docker compose -f docker/compose.yaml -f docker/compose.gpu.yaml -f docker/compose.gpus.yaml up --build

``compose.gpu.yaml`` has the service of GPU 0. ``count: 1`` would give every replica that GPU. Standard library only.
"""

from __future__ import annotations

import sys

MAX_GPUS = 16

SERVICE = """\
  ecenet-gpu{index}:
    extends: {{file: compose.yaml, service: ecenet}}
    image: ecenet:gpu
    build: {{context: .., dockerfile: Dockerfile}}
    environment:
      ECENET_ENGINE: tensorrt
      ECENET_PRECISION: auto
    networks:
      inside: {{aliases: [ecenet]}}
    deploy:
      replicas: 1
      resources:
        limits: {{cpus: "${{CPUS:-4}}", memory: "${{MEMORY:-10g}}", pids: 512}}
        reservations:
          devices:
            - {{driver: nvidia, device_ids: ["{index}"], capabilities: [gpu]}}
"""


def compose_file(gpus: int) -> str:
    """YAML with the services of GPU 1 and those behind it.

    Raises:
        ValueError: Fewer than 2 GPUs, or more than ``MAX_GPUS``.
    """
    if not 2 <= gpus <= MAX_GPUS:
        raise ValueError(f"{gpus} GPUs, expected 2 to {MAX_GPUS}; compose.gpu.yaml alone is for one")
    return "services:\n" + "".join(SERVICE.format(index=index) for index in range(1, gpus))


if __name__ == "__main__":
    try:
        sys.stdout.write(compose_file(int(sys.argv[1])))
    except (IndexError, ValueError) as error:
        sys.exit(f"usage: compose_gpus.py GPUS: {error}")
