"""INT8 on processors without VNNI: sums of two products in 16 bits, emulated, equal the exact ones for every image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import read_manifest

INT16 = np.iinfo(np.int16)


def exact(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Sums over the last axis as VNNI (``vpdpbusd``) and arm64 (``udot``, ``smlal``) make them, in 32 bits."""
    sums: NDArray[np.int64] = (activations.astype(np.int64) * weights).sum(-1)
    return sums


def in_16_bits(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """The same as SSSE3, AVX2 and AVX-512 without VNNI make them (``pmaddubsw``): pairs are cut to 16 bits."""
    products = activations.astype(np.int64) * weights
    pairs = products.reshape(*products.shape[:-1], -1, 2).sum(-1).clip(INT16.min, INT16.max)
    sums: NDArray[np.int64] = pairs.sum(-1)
    return sums


def worst_pairings(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Rows (outputs, even) whose pairs are the largest that any order of the inputs can make."""
    rows = np.sort(weights.reshape(len(weights), -1), axis=1)
    return rows if rows.shape[1] % 2 == 0 else np.concatenate([rows[:, :1], rows], axis=1)


def int8_weights(graph: onnx.GraphProto) -> dict[str, NDArray[np.int8]]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    names = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    return {
        name: numpy_helper.to_array(constants[name]) for name in names if constants[name].data_type == TensorProto.INT8
    }


def bundled_int8_graphs() -> list[Path]:
    directory = bundled_model_dir()
    return [directory / graph.file for graph in read_manifest(directory).graphs if graph.precision == "int8"]


def test_full_range_weights_are_cut_and_those_of_7_bits_are_not() -> None:
    brightest = np.full((1, 4), 255, np.uint8)
    assert in_16_bits(brightest, np.full((1, 4), 127, np.int8)) != exact(brightest, np.full((1, 4), 127, np.int8))
    for limit in (64, -64):
        weights = np.full((1, 4), limit, np.int8)
        assert in_16_bits(brightest, weights) == exact(brightest, weights)


@pytest.mark.parametrize("path", bundled_int8_graphs(), ids=lambda path: path.name)
def test_no_image_can_saturate_a_layer_of_the_bundled_int8_graph(path: Path) -> None:
    layers = int8_weights(onnx.load(path).graph)
    assert len(layers) > 50
    for name, weights in layers.items():
        rows = worst_pairings(weights)
        for activations in (np.where(rows > 0, 255, 0), np.where(rows < 0, 255, 0)):
            images = activations.astype(np.uint8)
            np.testing.assert_array_equal(in_16_bits(images, rows), exact(images, rows), name)
