"""The layer report: kernels, the ONNX nodes that they are made of, and which attentions they fuse."""

from __future__ import annotations

import pytest

from service.engines.tensorrt.layer_report import (
    AttentionNodes,
    Fusion,
    FusionError,
    Layer,
    LayerReportError,
    count_fused,
    is_report,
    parse_layers,
)

# Shortened from builds by TensorRT-RTX 1.7.1.116: an SAU's attention, and one of a window with its mask.
SAU_KERNEL = (
    "Name: _gemm_mha_v2_myl0_192, LayerType: kgen, Inputs: [ { Name: __mye133464_318_myl0, Dimensions: [-1,27648,16], "
    "Datatype: Half }], Constants: [], Outputs: [ { Name: __mye133464_myl0, Dimensions: [-1,27648,16] }], TacticName: "
    "_gemm_mha_v2_0x845ef0a5, StreamId: 0, Metadata: [ONNX Layer: node_scaled_dot_product_attention_2]"
)
WINDOW_KERNEL = (
    "Name: _gemm_mha_v2_myl0_19, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], TacticName: _gemm_mha_v2_0x, "
    "StreamId: 0, Metadata: [ONNX Layer: node_scaled_dot_product_attention]\x1f[ONNX Layer: node_add_323]"
)
REPORT = "\n".join(
    [
        "Layers:",
        "Name: __mye35879_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , "
        "StreamId: 0, Metadata: ",
        "Name: PWN(PWN(node_a), node_b), LayerType: PointWiseV2, Inputs: [], Outputs: [], StreamId: 0, Metadata: "
        "[ONNX Layer: node_a]\x1e[ONNX Layer: node_b]",
        SAU_KERNEL,
        WINDOW_KERNEL,
        "",
        "Bindings:",
        "images",
    ]
)
SAU, WINDOW = "node_scaled_dot_product_attention_2", "node_scaled_dot_product_attention"


def test_layers_are_read_with_the_onnx_nodes_that_they_are_made_of() -> None:
    first, pointwise, sau, window = parse_layers(REPORT)
    assert (first.name, first.kind, first.nodes) == ("__mye35879_0_myl0_0", "shape_call", frozenset())
    assert (pointwise.name, pointwise.kind) == ("PWN(PWN(node_a), node_b)", "PointWiseV2")
    assert pointwise.nodes == {"node_a", "node_b"}
    assert sau.nodes == {SAU}
    assert window.nodes == {WINDOW, "node_add_323"}
    assert [layer.is_fused_attention for layer in (first, pointwise, sau, window)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("_gemm_mha_v2_myl0_192", True),
        ("__mye8037_gemm_mha_v2", True),
        ("_gemv_mha_v1_myl3_6", True),
        ("fmha_v2_flash", True),
        ("_fused_mha_v2", True),
        ("node_scaled_dot_product_attention_2", False),
        ("mhall_conv", False),
        ("alphamha", False),
        ("__myl_Softmax_myl0_4", False),
    ],
)
def test_fused_kernels_are_known_by_name(name: str, fused: bool) -> None:
    (layer,) = parse_layers(SAU_KERNEL.replace("_gemm_mha_v2_myl0_192", name))
    assert layer.is_fused_attention is fused


def test_a_repeated_input_is_known_by_name() -> None:
    assert Layer("__myl_ReshReplConcResh_myl0_7", "kgen", frozenset()).repeats_input
    assert not Layer("__myl_Resh_myl0_7", "kgen", frozenset()).repeats_input


def test_fused_attentions_are_counted_by_what_they_are() -> None:
    fusion = count_fused(parse_layers(REPORT), AttentionNodes(saus=(SAU,), windows=(WINDOW, "node_other")))
    assert fusion == Fusion(1, 1, 2, 1, unfused=(), kernels=2, layers=4)
    fusion.check("model.onnx")
    assert str(fusion) == "1 of 1 SAU attentions fused, 1 of 2 window attentions fused"


def test_an_attention_without_a_kernel_is_named() -> None:
    fusion = count_fused(parse_layers(REPORT), AttentionNodes(saus=(SAU, "node_slow")))
    with pytest.raises(
        FusionError, match=r"^m\.onnx: 1 of 2 SAU attentions are fused, not node_slow; .*--require-fused"
    ):
        fusion.check("m.onnx")


def test_a_fused_window_does_not_stand_for_an_sau() -> None:
    only_window = count_fused(parse_layers(WINDOW_KERNEL), AttentionNodes(saus=(SAU,), windows=(WINDOW,)))
    assert (only_window.fused_saus, only_window.fused_windows, only_window.unfused) == (0, 1, (SAU,))
    in_pieces = count_fused(parse_layers(WINDOW_KERNEL), AttentionNodes(saus=(), windows=(WINDOW,), in_pieces=1))
    assert (in_pieces.saus, in_pieces.fused_saus) == (1, 0)
    with pytest.raises(FusionError, match="0 of 1 SAU attentions are fused, not 1 that the graph has in pieces"):
        in_pieces.check("m.onnx")


def test_an_attention_in_pieces_may_be_fused_by_the_compiler() -> None:
    kernel = SAU_KERNEL.replace(SAU, "node_softmax")
    assert count_fused(parse_layers(kernel), AttentionNodes(saus=(), in_pieces=1)).fused_saus == 1


@pytest.mark.parametrize("report", ["", "Layers:\n", "Layers:\n_gemm_mha_v2_myl0_192\nnode_conv", '{"Layers": []}'])
def test_a_report_without_layers_is_an_error(report: str) -> None:
    with pytest.raises(LayerReportError, match="nobody knows whether attention is fused"):
        parse_layers(report)


def test_the_report_is_told_from_the_other_messages_of_a_build() -> None:
    assert is_report(REPORT)
    assert not any(map(is_report, ["", "Total Weights Memory: 3 bytes", "Graph has Layers:\n1"]))
