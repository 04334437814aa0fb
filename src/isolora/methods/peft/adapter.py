"""Adapters that PEFT builds: one member on one model, trained by our loop and kept in PEFT's own format."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from isolora.errors import ConfigError, DataError, in_brief
from isolora.lean_imports import import_peft
from isolora.methods import missing_weights
from isolora.methods.adapter_files import CONFIG, WEIGHTS, saved_settings, saved_tensors
from isolora.methods.base import Attached, Method, ParameterGroup, Span
from isolora.methods.merging import untie
from isolora.methods.peft.peft_configuration import (
    check_module_names,
    check_sizes,
    drop_absent_names,
    quietly,
    saved_config,
    without_bitsandbytes,
)
from isolora.methods.peft.wrapped_heads import settle_heads, start_heads, trained_copies
from isolora.methods.recomputation import recompute_layers
from isolora.methods.targets import short_names, target_modules
from isolora.methods.trained_heads import drawing_from, head_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TASK_TYPES = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "MTModel": "SEQ_2_SEQ_LM",
    "ForTokenClassification": "TOKEN_CLS",
    "ForSequenceClassification": "SEQ_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
"""Endings of transformers' class names -> what PEFT calls their task."""
PEFT_RAISES = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""All that PEFT has been seen to raise for a model that a method does not suit."""


class PeftAdapter(Attached):
    """One member whose layers PEFT has put into the model. `peft` is PEFT's wrapper, `model` what the tasks call."""

    members = 1

    def __init__(self, model: PreTrainedModel, config: Any, seed: int, name: str, mergeable: bool) -> None:
        self.base = self.model = model
        self.config, self.name, self.mergeable = config, name, mergeable
        self._originals = dict(model.named_modules())
        self._was_trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._generator = torch.Generator().manual_seed(seed)
        self._training = False
        model.requires_grad_(False)
        self._own = {id(parameter) for parameter in model.parameters()}
        try:
            with quietly(), without_bitsandbytes(config.peft_type), drawing_from(seed, next(model.parameters()).device):
                self.peft = self._wrapped()
            self._keep_in_full()
            start_heads(model, seed)
        except PEFT_RAISES as failure:
            self.detach()
            raise self.refusal(failure) from None
        if not config.inference_mode and not self.tensors(0):
            self.detach()
            raise ConfigError(f"method: {name} finds nothing to train in {type(model).__name__}; name its modules")
        self.train(False)

    def _keep_in_full(self) -> bool:
        """Adapters in float32 on a base in bfloat16, whose precision some methods begin in; whether any was not."""
        coarse = [weight for weight in self.peft.parameters() if weight.dtype == torch.bfloat16 and id(weight) not in self._own]
        for weight in coarse:
            weight.data = weight.data.float()
        return bool(coarse)

    def _wrapped(self) -> Any:
        """PEFT's model without a task's own class, which would train heads unasked."""
        from peft import PeftModel

        return PeftModel(self.base, self.config)

    def refusal(self, failure: Exception) -> Exception:
        """What a person is told."""
        if isinstance(failure, NotImplementedError) and "meta" in str(failure):
            return failure  # a rehearsal's own business
        if "target_modules" in str(failure) and not getattr(self.config, "target_modules", True):
            kind = self.base.config.model_type
            return ConfigError(f"method.target_modules: PEFT has no default for {kind}; give all-linear, or names of modules")
        return ConfigError(f"method: {self.name} cannot be attached to {type(self.base).__name__}: {in_brief(failure)}")

    def groups(self, member: int) -> list[ParameterGroup]:
        heads = [parameter for head in trained_copies(self.base) for parameter in head.parameters() if parameter.requires_grad]
        return ParameterGroup.split([parameter for parameter in self.peft.parameters() if parameter.requires_grad], heads)

    @contextmanager
    def rows(self, spans: Sequence[Span]) -> Iterator[None]:
        """PEFT's dropout draws from the global generator: there, each pass draws from a seed of the member's own."""
        if not spans:
            with self._bare():
                yield
        elif self._training:
            with drawing_from(int(torch.randint(2**62, (), generator=self._generator)), next(self.base.parameters()).device):
                yield
        else:
            yield

    @contextmanager
    def _bare(self) -> Iterator[None]:
        with quietly(), self.peft.disable_adapter():
            yield

    def generators(self) -> dict[str, torch.Generator]:
        return {"dropout": self._generator}

    def train(self, on: bool) -> None:
        """PEFT's dropout and recomputation; the base's own dropout stays off, and that of heads, as with every other method."""
        self._training = on
        heads = {module for head in trained_copies(self.base) for module in head.modules()}
        base = set(self._originals.values()) | heads
        for module in self.peft.modules():
            if module not in base:
                module.training = on
        recompute_layers(self.base, on)

    def save(self, member: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        named = {**self._named(), **self._missing()}
        tensors = {key: value.detach().cpu().clone().contiguous() for key, value in named.items()}
        save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
        described = {**self.config.to_dict(), "inference_mode": True}
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in described.items()}
        (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _named(self) -> dict[str, Tensor]:
        """Tensors under the names that they have in PEFT's files."""
        from peft import get_peft_model_state_dict

        with quietly():
            named: dict[str, Tensor] = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        return named

    def _missing(self) -> dict[str, torch.nn.Parameter]:
        """What the base's checkpoint lacks, under the names that it has in PEFT's model."""
        return missing_weights.beside(self.base, self.peft, self.tensors(0))

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Copy saved tensors. Raises DataError when one is missing, foreign or misshapen."""
        from peft import set_peft_model_state_dict

        beside = missing_weights.fill_missing_weights(self._missing(), tensors)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in beside}
        named = self._named()
        if odd := sorted(named.keys() ^ tensors.keys()):
            raise DataError(f"adapter file: tensor {odd[0]} is {'missing' if odd[0] in named else 'none of this adapter'}")
        for key, tensor in named.items():
            if tensors[key].shape != tensor.shape:
                raise DataError(f"adapter file: {key} is {tuple(tensors[key].shape)}, the base needs {tuple(tensor.shape)}")
        try:
            with quietly():
                set_peft_model_state_dict(self.peft, tensors)
            if self._keep_in_full():  # PEFT makes AdaLoRA's tensors anew, and what it copied into them was rounded
                for name, tensor in self._named().items():
                    tensor.detach().copy_(tensors[name])
        except PEFT_RAISES as failure:
            raise DataError(f"adapter file: {in_brief(failure)}") from None

    def merge(self, member: int) -> Any:
        if not self.mergeable:
            raise ConfigError(f"method: {self.name} has no place in the base's weights; its adapters cannot be merged")
        settle_heads(self.base, self.config)
        untie(self.base, [layer.get_base_layer() for layer in self._adapted_layers()])
        tied = getattr(self.base.config, "tie_word_embeddings", False)
        try:
            with quietly():
                self.peft.base_model.merge_and_unload()
        except PEFT_RAISES as failure:
            raise ConfigError(f"method: {self.name} cannot be merged here: {in_brief(failure)}") from None
        self.base.config.tie_word_embeddings = tied  # PEFT sees no more that `untie` has settled it
        self._restore_flags()
        return self.base

    def _adapted_layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self.base.modules() if isinstance(module, BaseTunerLayer)]

    def detach(self) -> None:
        for name, module in self._originals.items():
            if name and self.base.get_submodule(name) is not module:
                parent, _, child = name.rpartition(".")
                setattr(self.base.get_submodule(parent), child, module)
        self._restore_flags()

    def _restore_flags(self) -> None:
        if hasattr(self.base, "peft_config"):
            del self.base.peft_config
        self.base.requires_grad_(False)
        for parameter in self._was_trained:
            parameter.requires_grad_(True)


class PeftMethod(Method):
    """A method of PEFT's; `peft_type` is its name there."""

    peft_type: ClassVar[str]
    adapter: ClassVar[type[PeftAdapter]] = PeftAdapter

    @abstractmethod
    def config(self, model: PreTrainedModel, settings: Any) -> Any:
        """PEFT's configuration. Raises ConfigError where the method is not defined for this model."""

    def attach(self, model: PreTrainedModel, members: Sequence[Any], seeds: Sequence[int], heads: bool = False) -> PeftAdapter:
        (settings,), (seed,) = members, seeds
        import_peft()
        return self._attached(model, self.config(model, settings), seed, heads)

    def _attached(self, model: PreTrainedModel, config: Any, seed: int, heads: bool) -> PeftAdapter:
        self.check_names(model, config)
        config.task_type = task_type(model)
        config.base_model_name_or_path = model.name_or_path or None
        if heads and not hasattr(config, "modules_to_save"):
            raise ConfigError(f"method: {self.name} keeps no new head; {type(model).__name__} needs one trained")
        if heads:
            config.modules_to_save = head_names(model)
        return self.adapter(model, config, seed, self.name, self.mergeable)

    def check_names(self, model: PreTrainedModel, config: Any) -> None:
        """Raises ConfigError where names of modules match nothing or patterns take too long."""
        check_module_names(model, config)

    def load(self, model: PreTrainedModel, folder: Path, heads: bool = False) -> PeftAdapter:
        config, tensors = self.saved(folder), saved_tensors(folder)
        try:
            check_sizes(saved_settings(folder), tensors)
            drop_absent_names(model, config)
            attached = self._attached(model, config, 0, heads)
        except ConfigError as failure:
            raise DataError(f"{folder}: {failure}") from None
        with attached.detached_on_error():
            attached.fill(tensors)
        return attached

    def saved(self, folder: Path) -> Any:
        """PEFT's configuration from a saved adapter's folder."""
        return saved_config(folder, self.peft_type)


def task_type(model: PreTrainedModel) -> str | None:
    """What PEFT calls the task of a transformers class."""
    return next((kind for ending, kind in TASK_TYPES.items() if type(model).__name__.endswith(ending)), None)


def peft_targets(model: PreTrainedModel, targets: str | list[str]) -> str | list[str]:
    """Targets as PEFT wants them, with our meaning of `all-linear`: heads stay out. Raises ConfigError when nothing matches."""
    found = target_modules(model, targets)
    return short_names(model, found) if targets == "all-linear" else targets
