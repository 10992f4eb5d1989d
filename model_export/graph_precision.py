"""A float32 graph in half precision, for runtimes that fuse attention in fp16 only (TensorRT)."""

from __future__ import annotations

import onnx

# The mean over all cells of FR's gate sums tens of thousands of values: it stays in float32, as each LayerNorm's
# statistics do by its ``stash_type``. No activation of the bundled model exceeds 255, and fp16 holds 65504.
_FLOAT32_OPERATORS = ("ReduceMean",)


# An image of 640x640 has 15 MB of float32 logits with 150 classes, which the bus of a GPU carries at 1,600 images/s; of
# few classes every reader of the graph gets float32.
HALF_LOGITS_CLASSES = 32


def to_fp16(model: onnx.ModelProto, *, half_logits: bool = False) -> onnx.ModelProto:
    """A copy with weights and arithmetic in fp16, by ONNX Runtime's converter.

    Operators stay in float32 that have no fp16 form.

    Args:
        model: The graph; uint8 images and labels stay unchanged.
        half_logits: Whether logits are float16, as the last convolution computes them, and not cast to float32.
    """
    from onnxruntime.transformers import float16  # noqa: PLC0415
    from onnxruntime.transformers.onnx_model import OnnxModel  # noqa: PLC0415

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPERATORS]
    converted: onnx.ModelProto = float16.convert_float_to_float16(
        copy, keep_io_types=not half_logits, op_block_list=blocked
    )
    OnnxModel.graph_topological_sort(converted.graph)  # the converter appends its casts at the end
    onnx.checker.check_model(converted, full_check=True)
    return converted
