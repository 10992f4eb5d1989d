"""How timm, torchvision, mmsegmentation and Microsoft name the tensors of a backbone, and which of them a file follows.

Sources of the names: the state dicts of timm 1.0 and torchvision 0.28, microsoft/Swin-Transformer, and open-mmlab's
``swin_converter``. A layout gives the file's name of each of our tensors; the one that fits most of a file's names and
shapes is the file's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from trainer.model.backbone import ConvBackbone, SwinBackbone
from trainer.model.timm_loader import import_timm
from trainer.weights.released import patch_order, released_name
from trainer.weights.released_keys import BACKBONE_PREFIX, DERIVED

BY_ORDER = "timm's layers in order"
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


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file keeps a backbone's tensors.

    Attributes:
        title: Whose layout it is.
        names: The file's name of each of our tensors, without ``prefix``, to our name.
        prefix: What stands before each of these names in the file, e.g. ``backbone.``.
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
        """Whether a name of the file belongs to a classifier or another part beside the backbone."""
        parent = self.prefix[: self.prefix[:-1].rfind(".") + 1]
        plain = name.removeprefix(self.prefix if name.startswith(self.prefix) else parent)
        return plain in self.classifier or plain.partition(".")[0] in _HEADS

    def hits(self, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> int:
        """How many of a file's tensors have a name of this layout, and how many of them its shape too."""
        pairs = ((self.our_name(name), tensor) for name, tensor in tensors.items())
        return sum(1 + (own[ours].shape == tensor.shape) for ours, tensor in pairs if ours)


def find_layout(backbone: ConvBackbone | SwinBackbone, tensors: Mapping[str, Tensor]) -> Layout:
    """The layout, and the prefix, that fits most of a file's tensors.

    If not one name fits a convolutional backbone, the tensors may still do in their order, see ``match_in_order``.
    """
    own = backbone.state_dict()
    model = classifier_state(backbone) if isinstance(backbone, ConvBackbone) else {}
    known = _conv_layouts(own, model) if model else _swin_layouts(own)
    layouts = [_below(prefix, layout) for layout in known for prefix in _prefixes(tensors)]
    best = max(layouts, key=lambda layout: layout.hits(own, tensors))
    if model and not best.hits(own, tensors):
        names = match_in_order(own, model, tensors)
        return Layout(BY_ORDER, names, classifier=frozenset(tensors)) if names else best
    return best


def classifier_state(backbone: ConvBackbone) -> dict[str, Tensor]:
    """The state dict of timm's whole classifier, whose first part the backbone is; random weights."""
    name = backbone.features.pretrained_cfg["architecture"]
    state: dict[str, Tensor] = import_timm().create_model(name, pretrained=False).state_dict()
    return state


def match_in_order(
    own: Mapping[str, Tensor], model: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, str] | None:
    """A file's names to ours, tensor by tensor in order, for files that list the same layers under other names.

    So do torchvision's EfficientNets and MobileNets (whose V3 has norms of another epsilon than timm's) and the
    packages on PyPI.

    Args:
        own: The backbone's tensors by our names, in order.
        model: timm's whole classifier, in order.
        tensors: Of the file, in order: the whole classifier, whose classes may differ, or the backbone alone.

    Returns:
        None unless the kinds (weight, bias, ...) and shapes of the backbone's tensors agree one by one.
    """
    stored, ours = _weights(tensors), _weights(own)
    whole = [f"features.{name}" for name in _weights(model)]
    targets = whole if len(stored) == len(whole) else ours
    if len(stored) != len(targets):
        return None
    matched = {there: here for there, here in zip(stored, targets, strict=True) if here in own}
    alike = all(_kind(a) == _kind(b) and tensors[a].shape == own[b].shape for a, b in matched.items())
    return matched if alike and len(matched) == len(ours) else None


def _conv_layouts(own: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> list[Layout]:
    joined = {name.replace(".", "_", 1): name for name in model}  # timm's extractors join two levels: layers_0
    features = {name.removeprefix("features."): name for name in own}
    timm = {joined.get(name, name): ours for name, ours in features.items()}
    classifier = frozenset(model)
    layouts = [
        Layout("timm's or torchvision's layout", timm, classifier=classifier),
        Layout("timm's features layout", features),
        Layout("this trainer's layout", {name: name for name in own}),
    ]
    if "conv1.0.weight" in timm:
        stem = {_mmsegmentation_stem(name): ours for name, ours in timm.items()}
        layouts.append(Layout("mmsegmentation's layout", stem, classifier=classifier))
    return layouts


def _swin_layouts(own: Iterable[str]) -> list[Layout]:
    own = list(own)
    return [
        Layout("timm's layout", {_timm_swin(name): name for name in own}),
        Layout("Microsoft's layout", {_microsoft_swin(name): name for name in own}),
        Layout("torchvision's layout", {_torchvision_swin(name): name for name in own}),
        Layout("mmsegmentation's layout", {_mmsegmentation_swin(name): name for name in own}, channel_major=True),
        Layout("timm's features layout", {name.removeprefix("features."): name for name in own}),
        Layout("this trainer's layout", {name: name for name in own}),
    ]


def _timm_swin(name: str) -> str:
    """timm 0.9 and later: patch merging opens a stage, as with us."""
    name = re.sub(r"^features\.(layers_(\d)\.)?", lambda match: f"layers.{match[2]}." if match[1] else "", name)
    return re.sub(r"^norms\.", "norm", name)


def _microsoft_swin(name: str) -> str:
    """Microsoft's release and timm before 0.9: patch merging closes a stage."""
    name = _timm_swin(name)
    return re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)


def _torchvision_swin(name: str) -> str:
    """torchvision: one sequence of embedding, then stages and patch mergings in turn."""
    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (r"^features\.patch_embed\.proj\.", lambda _: "features.0.0."),
        (r"^features\.patch_embed\.norm\.", lambda _: "features.0.2."),
        (r"^features\.layers_(\d)\.downsample\.", lambda match: f"features.{2 * int(match[1])}."),
        (r"^features\.layers_(\d)\.blocks\.", lambda match: f"features.{2 * int(match[1]) + 1}."),
        (r"\.mlp\.fc1\.", lambda _: ".mlp.0."),
        (r"\.mlp\.fc2\.", lambda _: ".mlp.3."),
    ]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _mmsegmentation_swin(name: str) -> str:
    """mmsegmentation's names are those of the released backbone."""
    return released_name(BACKBONE_PREFIX + name).removeprefix(BACKBONE_PREFIX)


def _mmsegmentation_stem(name: str) -> str:
    """The three convolutions of ResNetV1c and V1d: one sequence there, in timm the last norm stands apart."""
    return re.sub(r"^bn1\.", "stem.7.", re.sub(r"^conv1\.", "stem.", name))


def _prefixes(names: Iterable[str]) -> list[str]:
    """What may stand before the names of a backbone, the shortest first."""
    prefixes = {""}
    for name in names:
        prefixes.update(accumulate(part + "." for part in name.split(".")[:-1][:_PREFIX_DEPTH]))
    return sorted(prefixes, key=lambda prefix: (prefix.count("."), prefix))


def _below(prefix: str, layout: Layout) -> Layout:
    return Layout(layout.title, layout.names, prefix, layout.channel_major, layout.classifier)


def _weights(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(DERIVED)]


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
