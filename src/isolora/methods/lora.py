"""LoRA from scratch: y = W x + scaling · B A x with W frozen (Hu et al. 2106.09685; rsLoRA 2312.03732; LoRA+ 2402.12354).

Saved in PEFT's format; PEFT's adapters load here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from isolora.errors import ConfigError, DataError
from isolora.json_types import JsonObject
from isolora.lean_imports import import_peft
from isolora.methods import adapter_files, missing_weights
from isolora.methods.adapter_files import CONFIG, WEIGHTS, saved_tensors
from isolora.methods.base import Attached, Method, ParameterGroup, Span
from isolora.methods.low_rank import AdaptedEmbedding, AdaptedLayer, AdaptedLinear, Rows, linear_shape
from isolora.methods.merging import untie
from isolora.methods.recomputation import recompute_layers
from isolora.methods.taken_for_experts import as_parameters, from_parameters, taken_for_experts
from isolora.methods.targets import is_named, nothing_matches, short_names, target_modules
from isolora.methods.trained_heads import Heads, head_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
MOST_NAMED = 20
"""Layers that a line proposes."""
PEFT_NAMES = {
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "target_modules",
    "rank_stabilised": "use_rslora",
}
CHANGES_THE_SUM = (
    *(
        "rank_pattern",
        "alpha_pattern",
        "bias",
        "lora_bias",
        "use_dora",
        "modules_to_save",
        "layers_to_transform",
        "exclude_modules",
    ),
    *("target_parameters", "trainable_token_indices", "layer_replication", "use_qalora", "use_bdlora", "alora_invocation_tokens"),
    *("arrow_config", "kasa_config", "velora_config", "monteclora_config", "megatron_config"),
)
"""PEFT's settings under which an adapter is no longer W x + scaling · B A x on the named layers."""
PLAIN_STARTS = ("gaussian", "orthogonal", "eva", "mica")
"""Initialisations that leave the base's weights alone."""


class LoraSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
    rank: int = Field(8, ge=1, description="inner dimension of the update")
    alpha: float = Field(16.0, gt=0, description="numerator of the scaling")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: str | list[str] = Field("all-linear", description="all-linear, module names, or a pattern over full module names")
    rank_stabilised: bool = Field(False, description="scale by alpha/sqrt(rank) instead of alpha/rank")
    b_learning_rate_ratio: float = Field(1.0, gt=0, description="LoRA+: learning rate of B over that of A")

    @property
    def scaling(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class LoraAdapters(Attached):
    """K LoRA adapters on one model; `layers` maps full module names to their adapted layers."""

    def __init__(
        self, model: PreTrainedModel, members: Sequence[LoraSettings], seeds: Sequence[int], heads: bool = False
    ) -> None:
        self.model, self.settings, self.members = model, list(members), len(members)
        self._dropout_generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._rows = Rows(self._dropout_generators)
        names = self._targets(set(head_names(model)) if heads else set())
        self._was_trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        self.layers = {name: self._wrap(name, number) for number, name in enumerate(names)}
        for member, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for layer in self.layers.values():
                layer.add_member(self.settings[member].rank, generator)
        self.heads = Heads(model, self._rows, seeds if heads else ())

    def _targets(self, heads: set[str]) -> list[str]:
        """Full names of the adapted layers, those of new heads left out, which are trained as they are. Raises ConfigError before
        anything is changed."""
        found = [target_modules(self.model, member.targets) for member in self.settings]
        chosen = [[name for name in names if name.split(".")[0] not in heads] for names in found]
        if not chosen[0]:
            raise ConfigError(f"method.targets: {self.settings[0].targets!r} names the new head alone, which is trained whole")
        self._check_named(chosen[0])
        if any(names != chosen[0] for names in chosen):
            raise ConfigError("method.targets: members of one stack must have the same targets")
        _check_rank(self.model, chosen[0], max(member.rank for member in self.settings))
        return chosen[0]

    def _check_named(self, chosen: list[str]) -> None:
        """Raises ConfigError where a target that was named is of the new head alone."""
        targets = self.settings[0].targets
        for target in [] if isinstance(targets, str) else targets:
            if not any(is_named(name, [target]) for name in chosen):
                raise ConfigError(f"{nothing_matches(target, chosen, 'method.targets')}; a new head is trained whole")

    def _wrap(self, name: str, number: int) -> Any:
        base = self.model.get_submodule(name)
        kind = AdaptedEmbedding if isinstance(base, nn.Embedding) else AdaptedLinear
        scalings, dropouts = [member.scaling for member in self.settings], [member.dropout for member in self.settings]
        layer = kind(base, self._rows, number, scalings, dropouts)
        layer.train(base.training)
        _replace(self.model, name, layer)
        return layer

    def train(self, on: bool) -> None:
        """Adapters' dropout and recomputation; the base's own dropout stays off, since members would share its draws."""
        for module in self.model.modules():
            if isinstance(module, AdaptedLayer):
                module.training = on
        recompute_layers(self.model, on)

    def groups(self, member: int) -> list[ParameterGroup]:
        a = [layer.a[member] for layer in self.layers.values()]
        b = [layer.b[member] for layer in self.layers.values()]
        heads = [parameter for _, parameter in self.heads.named(member)]
        ratio = self.settings[member].b_learning_rate_ratio
        if ratio == 1:
            return ParameterGroup.split(a + b, heads)
        return [*ParameterGroup.split(a, heads), ParameterGroup(b, ratio)]

    def rows(self, spans: Sequence[Span]) -> AbstractContextManager[None]:
        return self._rows.assigned(spans)

    def generators(self) -> dict[str, torch.Generator]:
        return {f"dropout.{member}": generator for member, generator in enumerate(self._dropout_generators)}

    def save(self, member: int, folder: Path) -> None:
        import_peft()
        from peft import LoraConfig

        settings = self.settings[member]
        folder.mkdir(parents=True, exist_ok=True)
        by_weight = taken_for_experts(self.model, self.layers)
        by_name = [name for name in self.layers if name not in by_weight]
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,  # some readers insist on an int
            lora_dropout=0.0 if by_weight else settings.dropout,  # PEFT knows none for weights, and loads no file that has it
            target_modules=short_names(self.model, by_name),
            target_parameters=as_parameters(by_weight) or None,
            use_rslora=settings.rank_stabilised,
            fan_in_fan_out=any(isinstance(layer.base, Conv1D) for layer in self.layers.values()),
            base_model_name_or_path=self.model.name_or_path or None,
            modules_to_save=list(self.heads.layers) or None,
            inference_mode=True,
        )
        config.save_pretrained(str(folder))
        named = {**dict(self._named(member)), **self._missing()}
        tensors = {key: value.detach().cpu().contiguous() for key, value in named.items()}
        save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})

    def _named(self, member: int) -> Iterator[tuple[str, Tensor]]:
        for name, layer in self.layers.items():
            form = (
                ("lora_embedding_A", "lora_embedding_B")
                if isinstance(layer, AdaptedEmbedding)
                else ("lora_A.weight", "lora_B.weight")
            )
            yield f"{PREFIX}{name}.{form[0]}", layer.a[member]
            yield f"{PREFIX}{name}.{form[1]}", layer.b[member]
        for name, parameter in self.heads.named(member):
            yield f"{PREFIX}{name}", parameter

    def _missing(self) -> dict[str, nn.Parameter]:
        """What the base's checkpoint lacks, under PEFT's names."""
        trained = [parameter for group in self.groups(0) for parameter in group.parameters]
        found = missing_weights.beside(self.model, self.model, trained)
        return {f"{PREFIX}{self._as_in_peft(name)}": parameter for name, parameter in found.items()}

    def _as_in_peft(self, name: str) -> str:
        """The name of a base's weight, which lies one level deeper in adapted layers."""
        inner = next((layer for layer in self.layers if name.startswith(f"{layer}.base.")), None)
        return name if inner is None else f"{inner}.base_layer.{name.removeprefix(f'{inner}.base.')}"

    def fill(self, member: int, tensors: dict[str, Tensor]) -> None:
        """Copy saved tensors (PEFT's names) into one member. Raises DataError when one is missing, foreign or misshapen."""
        named = dict(self._named(member))
        if self.members == 1:
            missing_weights.fill_missing_weights(self._missing(), tensors)
        for key, parameter in named.items():
            if key not in tensors:
                raise DataError(f"adapter file: tensor {key} is missing")
            if tensors[key].shape != parameter.shape:
                raise DataError(f"adapter file: {key} is {tuple(tensors[key].shape)}, the base needs {tuple(parameter.shape)}")
            parameter.data.copy_(tensors[key])
        for key in tensors.keys() - named.keys():
            if not self._is_of_base(key, tensors[key]):
                raise DataError(f"adapter file: {key} is neither a tensor of this adapter nor equal to the base's own")

    def _is_of_base(self, key: str, tensor: Tensor) -> bool:
        """PEFT saves the base's embeddings beside an adapter of embeddings; equal ones may be passed over."""
        name, _, kind = key.removeprefix(PREFIX).replace(".base_layer.", ".").rpartition(".")
        try:
            own = getattr(self.model.get_submodule(name), kind)
        except AttributeError:
            return False
        return isinstance(own, Tensor) and torch.equal(own.cpu(), tensor.to(own.dtype))

    def merge(self, member: int) -> Any:
        untie(self.model, [layer.base for layer in self.layers.values()])
        for layer in self.layers.values():
            layer.merge(member)
        self.heads.merge(member)
        self.detach()
        return self.model

    def detach(self) -> None:
        for name, layer in self.layers.items():
            _replace(self.model, name, layer.base)
        self.heads.detach()
        for parameter in self._was_trained:
            parameter.requires_grad_(True)


class Lora(Method):
    name = "lora"
    Settings = LoraSettings
    stackable = True
    own_in_stack = frozenset({"rank", "alpha", "dropout", "rank_stabilised", "b_learning_rate_ratio"})
    mergeable = True

    def attach(
        self, model: PreTrainedModel, members: Sequence[LoraSettings], seeds: Sequence[int], heads: bool = False
    ) -> LoraAdapters:
        return LoraAdapters(model, members, seeds, heads)

    def load(self, model: PreTrainedModel, folder: Path, heads: bool = False) -> LoraAdapters:
        settings, tensors = saved_lora_settings(folder, heads), saved_tensors(folder)
        attached = self.attach(model, [settings], [0], heads)
        with attached.detached_on_error():
            attached.fill(0, tensors)
        return attached


def saved_lora_settings(folder: Path, heads: bool = False) -> LoraSettings:
    """A saved adapter's settings from PEFT's `adapter_config.json`; heads: trained modules beside the adapter are expected."""
    saved = adapter_files.saved_settings(folder)
    if saved.get("peft_type") != "LORA":
        raise DataError(f"{folder}: peft_type is {saved.get('peft_type')!r}, expected 'LORA'")
    saved = _with_layers_by_weight(saved)
    beyond = [key for key in CHANGES_THE_SUM if not (heads and key == "modules_to_save")]
    foreign = [key for key in beyond if saved.get(key) not in (None, False, "none", [], {})]
    if not isinstance(saved.get("init_lora_weights", True), bool) and saved["init_lora_weights"] not in PLAIN_STARTS:
        foreign.append("init_lora_weights")
    if foreign:
        raise DataError(
            f"{folder}: {', '.join(f'{key}={saved[key]!r}' for key in foreign)} is beyond plain LoRA; load it with PEFT"
        )
    return _plain_settings(folder, saved)


def _with_layers_by_weight(saved: JsonObject) -> JsonObject:
    """The settings with layers that are named by their weights among the targets; as they are where there are none, or others."""
    targets, parameters = saved.get("target_modules") or [], saved.get("target_parameters")
    if not isinstance(targets, list) or not isinstance(parameters, list) or not all(isinstance(each, str) for each in parameters):
        return saved
    layers = from_parameters(parameters)
    return saved if layers is None else {**saved, "target_modules": [*targets, *layers], "target_parameters": None}


def _plain_settings(folder: Path, saved: JsonObject) -> LoraSettings:
    try:
        return LoraSettings.model_validate({own: saved.get(theirs) for own, theirs in PEFT_NAMES.items()})
    except ValidationError as failure:
        fields = ", ".join(sorted({PEFT_NAMES[str(error["loc"][0])] for error in failure.errors()}))
        raise DataError(f"{folder}: {CONFIG} has no valid {fields}") from None


def _check_rank(model: PreTrainedModel, names: list[str], rank: int) -> None:
    """Raises ConfigError for a layer that is narrower than the rank, with the wider ones where a short list names them: newer
    architectures have gates and mixing layers of 4 to 64 outputs among layers of thousands."""
    widths = {name: _narrower_side(model.get_submodule(name)) for name in names}
    narrow = [name for name, width in widths.items() if width < rank]
    if not narrow:
        return
    wide = short_names(model, [name for name in names if widths[name] >= rank])
    others = f"; or adapt the wider layers alone: method.targets=[{','.join(wide)}]" if 0 < len(wide) <= MOST_NAMED else ""
    raise ConfigError(f"method.rank: {rank} is larger than layer {narrow[0]} allows (at most {widths[narrow[0]]}){others}")


def _narrower_side(layer: nn.Module) -> int:
    return int(min(layer.weight.shape) if isinstance(layer, nn.Embedding) else min(linear_shape(layer)))


def _replace(model: PreTrainedModel, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


method = Lora()
