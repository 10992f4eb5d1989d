"""Checks of a graph, and the two forms of labels; the export's own tests look at whole graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import ExifTags, Image

from model_export.exportable import Exportable
from model_export.graph_precision import to_fp16
from model_export.images import generated_images, photos_in, sample_images
from model_export.parity import graph_agreement
from model_export.pytorch_cases import pictures_in
from model_export.trace import ExportError, check_graph
from service.engines.tensorrt.attentions import AttentionCount, count_attentions
from service.model_directory.manifest import read_manifest
from trainer.model.ecenet import build_model

SIZE = (72, 90)


def graph_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 8]) for name in ("q", "m", "y")]
    graph = helper.make_graph(list(nodes), "g", values[:2], values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def test_attentions_with_a_mask_are_none_of_the_saus() -> None:
    sau = helper.make_node("Attention", ["q", "q", "q"], ["a"])
    window = helper.make_node("Attention", ["a", "a", "a", "m"], ["y"])
    model = graph_of(sau, window)
    assert count_attentions(model) == AttentionCount(plain=1, masked=1, decomposed=0)
    with pytest.raises(ExportError, match="1 Attention nodes of SAUs, expected 3"):
        check_graph(model)


def test_a_graph_without_attention_is_refused() -> None:
    with pytest.raises(ExportError, match="0 Attention nodes of SAUs, expected 3"):
        check_graph(graph_of(helper.make_node("Relu", ["q"], ["y"])))


def test_a_batch_norm_that_was_not_folded_is_refused() -> None:
    saus = [helper.make_node("Attention", [x, x, x], [y]) for x, y in [("q", "a"), ("a", "b"), ("b", "c")]]
    norm = helper.make_node("BatchNormalization", ["c", "m", "m", "m", "m"], ["y"])
    with pytest.raises(ExportError, match="1 batch norms that were not folded"):
        check_graph(graph_of(*saus, norm))


def test_half_precision_leaves_its_argument_alone_and_sums_in_float32(exported_dir: Path) -> None:
    model = onnx.load(exported_dir / "model.onnx")
    before = model.SerializeToString()
    half = to_fp16(model)
    assert model.SerializeToString() == before
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(half).graph.value_info}
    means = [node for node in half.graph.node if node.op_type == "ReduceMean"]
    attentions = [node for node in half.graph.node if node.op_type == "Attention"]
    assert len(means) == sum(node.op_type == "ReduceMean" for node in model.graph.node) > 0
    assert {types[node.output[0]] for node in means} == {TensorProto.FLOAT}
    assert {types[node.output[0]] for node in attentions} == {TensorProto.FLOAT16}


@pytest.mark.parametrize(("half_logits", "expected"), [(False, TensorProto.FLOAT), (True, TensorProto.FLOAT16)])
def test_half_precision_gives_logits_of_the_type_that_is_asked_for(
    exported_dir: Path, half_logits: bool, expected: int
) -> None:
    graph = to_fp16(onnx.load(exported_dir / "model.onnx"), half_logits=half_logits).graph
    types = [tensor.type.tensor_type.elem_type for tensor in (*graph.input, *graph.output)]
    assert types == [TensorProto.UINT8, expected]


def test_labels_are_the_argmax_of_logits_at_cells_or_pixels() -> None:
    torch.manual_seed(0)
    model = build_model("ecenet-lite0", 5)
    images = torch.from_numpy(np.stack(generated_images(SIZE, 1)))
    with torch.inference_mode():
        logits = Exportable(model)(images)
        cells, pixels = Exportable(model, 4)(images), Exportable(model, 1)(images)
    assert (cells.dtype, tuple(cells.shape)) == (torch.uint8, (1, 18, 23))
    assert torch.equal(cells, logits.argmax(1).to(torch.uint8))
    large = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
    assert torch.equal(pixels, large.argmax(1).to(torch.uint8))


def test_another_network_does_not_agree(exported_dir: Path) -> None:
    graph = read_manifest(exported_dir).graph
    images = generated_images(SIZE, 2)
    logits = np.random.default_rng(0).standard_normal((2, 11, 18, 23)).astype(np.float32)
    agreement = graph_agreement(exported_dir / graph.file, graph, images, logits)
    assert agreement.fault(graph.bounds) is not None


def test_the_images_of_a_dataset_are_those_that_it_learns_from_turned_as_there(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # the left half, which orientation 6 turns up
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / split / f"{split}.webp", exif=exif, lossless=True)
        Image.fromarray(np.zeros((40, 20), np.uint8)).save(tmp_path / "labels" / split / f"{split}.png")
    (tmp_path / "classes.json").write_text('{"classes": {"a": "#000000", "b": "#ffffff"}}')
    assert [photo.path.name for photo in photos_in(tmp_path)] == ["train.webp"]
    (image,) = sample_images(tmp_path, (40, 20), 3)
    assert (image[:20] == 255).all()
    assert (image[20:] == 0).all()
    (tmp_path / "classes.json").write_text('{"classes": {"a": "#000000", "b": "#ffffff"}, "exif": false}')
    (image,) = sample_images(tmp_path, (20, 40), 3)
    assert (image == pixels).all()
    (case,) = pictures_in(tmp_path, 3).read((20, 40))
    assert (case[0] == pixels).all()
    Image.fromarray(pixels).save(tmp_path / "labels" / "train" / "b.tiff")  # a plain folder
    assert [photo.path.name for photo in photos_in(tmp_path / "labels" / "train")] == ["b.tiff", "train.png"]
    (tmp_path / "labels" / "train" / "._train.png").write_bytes(b"macOS writes such a file beside the image")
    assert [photo.path.name for photo in photos_in(tmp_path / "labels" / "train")] == ["b.tiff", "train.png"]


def test_images_to_compare_on_are_read_and_resized(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no image, and no dataset with a train split"):
        sample_images(tmp_path, SIZE, 1)
    with pytest.raises(ValueError, match="is 0, expected 1 or more"):
        sample_images(None, SIZE, 0)
    with pytest.raises(ValueError, match="nowhere does not exist, expected an image or a folder of images"):
        photos_in(tmp_path / "nowhere")
    Image.fromarray(np.full((10, 20, 3), 7, np.uint8)).save(tmp_path / "a.png")
    for source in (tmp_path, tmp_path / "a.png"):
        (image,) = sample_images(source, SIZE, 3)
        assert image.shape == (*SIZE, 3)
        assert (image == 7).all()
    first, second = (sample_images(None, SIZE, 2) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], first[1])
