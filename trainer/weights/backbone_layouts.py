"""Names of a backbone's tensors by timm, torchvision, mmsegmentation and Microsoft, and the layout of a file.

Sources of the names: the state dicts of timm 1.0 and torchvision 0.28, microsoft/Swin-Transformer, and open-mmlab's
``swin_converter``. A layout gives the file's name of each of our tensors; the one that fits most of a file's names and
shapes is the file's.

timm's ``checkpoint_filter_fn`` reads two of these layouts, but into its classifier alone: it looks modules up by names
that its feature extractors do not have, and it does not report the keys that it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from torch import Tensor

from trainer.model.backbone import ConvBackbone, SwinBackbone
from trainer.model.timm_loader import import_timm
from trainer.weights.released_keys import DERIVED
from trainer.weights.released_names import BACKBONE_RULES, patch_order, rename

_PREFIX_DEPTH = 3
# First part of the names beside a backbone: classifiers, other heads, what mmsegmentation's models keep besides.
_HEADS = frozenset(
    {
        "head",
        "head_dist",
        "fc",
        "classifier",
        "last_linear",
        "norm",
        "neck",
        "decode_head",
        "auxiliary_head",
        "decoder",
        "segmentation_head",
        "data_preprocessor",
    }
)
_MMSEGMENTATION = "mmsegmentation's layout"
# timm 0.9 and later: patch merging opens a stage, as with us.
_TIMM_SWIN = [(r"features\.layers_(\d)\.", r"layers.\1."), (r"features\.", ""), (r"norms\.", "norm")]
# Microsoft's release and timm before 0.9: patch merging closes a stage.
_MICROSOFT_SWIN = [
    *((rf"features\.layers_{stage}\.downsample", f"layers.{stage - 1}.downsample") for stage in (1, 2, 3)),
    *_TIMM_SWIN,
]
# torchvision: one sequence of embedding, then stages and patch mergings in turn.
_TORCHVISION_SWIN = [
    (r"features\.patch_embed\.proj\.", "features.0.0."),
    (r"features\.patch_embed\.norm\.", "features.0.2."),
    *((rf"features\.layers_{stage}\.downsample\.", f"features.{2 * stage}.") for stage in (1, 2, 3)),
    *((rf"features\.layers_{stage}\.blocks\.", f"features.{2 * stage + 1}.") for stage in range(4)),
    (r"(.*)\.mlp\.fc1\.", r"\1.mlp.0."),
    (r"(.*)\.mlp\.fc2\.", r"\1.mlp.3."),
]
# mmsegmentation's ResNetV1c and V1d: one sequence of three convolutions; in timm the last norm stands apart.
_DEEP_STEM = [(r"conv1\.", "stem."), (r"bn1\.", "stem.7.")]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of a backbone's tensors in a file.

    Attributes:
        title: The layout's name.
        names: The file's name of each of our tensors, without ``prefix``, to our name.
        prefix: The beginning of each of these names in the file, e.g. ``backbone.``.
        channel_major: Whether patch merging orders its neighbours as the release does, see ``patch_order``.
        classifier: The layout's names of the whole classifier, whose first part the backbone is.
    """

    title: str
    names: dict[str, str]
    prefix: str = ""
    channel_major: bool = False
    classifier: frozenset[str] = frozenset()

    def our_name(self, name: str) -> str | None:
        """Our name of a tensor of the file; None where the backbone has none."""
        return self.names.get(name.removeprefix(self.prefix)) if name.startswith(self.prefix) else None

    def convert(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor by its name in the file, as we keep it."""
        return patch_order(name, tensor) if self.channel_major else tensor

    def is_beside(self, name: str) -> bool:
        """True for a name of a classifier, or of another part beside the backbone."""
        parent = self.prefix[: self.prefix[:-1].rfind(".") + 1]
        plain = name.removeprefix(self.prefix if name.startswith(self.prefix) else parent)
        return plain in self.classifier or plain.partition(".")[0] in _HEADS

    def score(self, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> int:
        """A point for each of a file's tensors with a name of this layout, and one more if the shape is right too."""
        pairs = ((self.our_name(name), tensor) for name, tensor in tensors.items())
        return sum(1 + (own[ours].shape == tensor.shape) for ours, tensor in pairs if ours)


def find_layout(backbone: ConvBackbone | SwinBackbone, tensors: Mapping[str, Tensor]) -> Layout:
    """The layout, and the prefix, that fits most of a file's tensors.

    If not one name fits a convolutional backbone, the order of the tensors may, see ``layout_in_order``.
    """
    own = backbone.state_dict()
    known = _conv_layouts(backbone) if isinstance(backbone, ConvBackbone) else _swin_layouts(own)
    known += [
        Layout("timm's features layout", {name.removeprefix("features."): name for name in own}),
        Layout("this trainer's layout", {name: name for name in own}),
    ]
    layouts = [replace(layout, prefix=prefix) for layout in known for prefix in _prefixes(tensors)]
    best = max(layouts, key=lambda layout: layout.score(own, tensors))
    if isinstance(backbone, ConvBackbone) and not best.score(own, tensors):
        return layout_in_order(backbone, tensors) or best
    return best


def layout_in_order(backbone: ConvBackbone, tensors: Mapping[str, Tensor]) -> Layout | None:
    """The layout of a file that lists the layers in timm's order under other names.

    Such files are torchvision's EfficientNets and MobileNets (whose V3 has norms of another epsilon than timm's) and
    the packages on PyPI.

    Args:
        backbone: The backbone.
        tensors: Of the file, in order: the whole classifier, whose classes may differ, or the backbone alone.

    Returns:
        None unless the kinds (weight, bias, ...) and shapes of the backbone's tensors agree one by one.
    """
    own = backbone.state_dict()
    stored, ours = _weights(tensors), _weights(own)
    whole = [f"features.{name}" for name in _weights(_classifier_names(backbone))]
    targets = whole if len(stored) == len(whole) else ours
    if len(stored) != len(targets):
        return None
    names = {there: here for there, here in zip(stored, targets, strict=True) if here in own}
    alike = all(_kind(a) == _kind(b) and tensors[a].shape == own[b].shape for a, b in names.items())
    if not alike or len(names) != len(ours):
        return None
    return Layout("timm's layers in order", names, classifier=frozenset(tensors))


def _classifier_names(backbone: ConvBackbone) -> list[str]:
    """The names of timm's whole classifier, whose first part the backbone is, in order."""
    architecture = backbone.features.pretrained_cfg["architecture"]
    return list(import_timm().create_model(architecture, pretrained=False).state_dict())


def _conv_layouts(backbone: ConvBackbone) -> list[Layout]:
    model = _classifier_names(backbone)
    joined = {name.replace(".", "_", 1): name for name in model}  # timm's extractors join two levels: layers_0
    features = {name.removeprefix("features."): name for name in backbone.state_dict()}
    timm = {joined.get(name, name): ours for name, ours in features.items()}
    layouts = [Layout("timm's or torchvision's layout", timm, classifier=frozenset(model))]
    if "conv1.0.weight" in timm:
        deep_stem = {rename(name, _DEEP_STEM): ours for name, ours in timm.items()}
        layouts.append(Layout("mmsegmentation's layout", deep_stem, classifier=frozenset(model)))
    return layouts


def _swin_layouts(own: Iterable[str]) -> list[Layout]:
    rules = {
        "timm's layout": _TIMM_SWIN,
        "Microsoft's layout": _MICROSOFT_SWIN,
        "torchvision's layout": _TORCHVISION_SWIN,
        _MMSEGMENTATION: BACKBONE_RULES,
    }
    return [
        Layout(title, {rename(name, renaming): name for name in own}, channel_major=title == _MMSEGMENTATION)
        for title, renaming in rules.items()
    ]


def _prefixes(names: Iterable[str]) -> list[str]:
    """Prefixes that the names of a backbone may have, the shortest first."""
    prefixes = {""}
    for name in names:
        prefixes.update(accumulate(part + "." for part in name.split(".")[:-1][:_PREFIX_DEPTH]))
    return sorted(prefixes, key=lambda prefix: (prefix.count("."), prefix))


def _weights(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(DERIVED)]


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
