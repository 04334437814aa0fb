"""Adapters that PEFT has no format for: settings as JSON, tensors as safetensors under their full names in the model."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from isolora.errors import DataError
from isolora.methods import adapter_files, missing_weights
from isolora.methods.adapter_files import CONFIG, WEIGHTS, saved_tensors
from isolora.methods.base import Attached, Method, ParameterGroup
from isolora.methods.trained_heads import Heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TYPE = "isolora_type"


class OwnFormatAttached(Attached):
    """Adapters whose trained tensors have names; `settings` are those of each member, `heads` what they train for the task."""

    name: str
    settings: Sequence[Any]
    heads: Heads

    @abstractmethod
    def named(self, member: int) -> Iterator[tuple[str, nn.Parameter]]:
        """(full name, parameter) of all that one member trains."""

    def groups(self, member: int) -> list[ParameterGroup]:
        heads = [parameter for _, parameter in self.heads.named(member)]
        return ParameterGroup.split([parameter for _, parameter in self.named(member)], heads)

    def save(self, member: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        described = {TYPE: self.name, **self.settings[member].model_dump()}
        (folder / CONFIG).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        named = {**dict(self.named(member)), **self._missing(member)}
        tensors = {name: parameter.detach().cpu().clone() for name, parameter in named.items()}
        save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})

    def _missing(self, member: int) -> dict[str, nn.Parameter]:
        """What the base's checkpoint lacks and nobody trains, under the names of the plain model."""
        trained = {id(parameter) for _, parameter in self.named(member)}
        return {name: weight for name, weight in missing_weights.missing(self.model).items() if id(weight) not in trained}

    def fill(self, member: int, tensors: dict[str, Tensor]) -> None:
        """Copy saved tensors into one member. Raises DataError when one is missing, foreign or misshapen."""
        named, beside = dict(self.named(member)), missing_weights.fill_missing_weights(self._missing(member), tensors)
        if odd := sorted(named.keys() ^ (tensors.keys() - beside)):
            raise DataError(f"adapter file: tensor {odd[0]} is {'missing' if odd[0] in named else 'none of this adapter'}")
        for name, parameter in named.items():
            if tensors[name].shape != parameter.shape:
                raise DataError(f"adapter file: {name} is {tuple(tensors[name].shape)}, the base needs {tuple(parameter.shape)}")
            parameter.data.copy_(tensors[name])


class OwnFormat(Method):
    """A method whose adapters are kept in this format."""

    @abstractmethod
    def attach(
        self, model: PreTrainedModel, members: Sequence[Any], seeds: Sequence[int], heads: bool = False
    ) -> OwnFormatAttached: ...

    def load(self, model: PreTrainedModel, folder: Path, heads: bool = False) -> OwnFormatAttached:
        settings, tensors = self.saved_settings(folder), saved_tensors(folder)
        attached = self.attach(model, [settings], [0], heads)
        with attached.detached_on_error():
            attached.fill(0, tensors)
        return attached

    def saved_settings(self, folder: Path) -> Any:
        saved = adapter_files.saved_settings(folder)
        kind = saved.pop(TYPE, None)
        if kind != self.name:
            raise DataError(f"{folder}: {TYPE} is {kind!r}, expected {self.name!r}")
        try:
            return self.Settings(**saved)
        except ValidationError as failure:
            fields = ", ".join(sorted({str(error["loc"][0]) for error in failure.errors()}))
            raise DataError(f"{folder}: {CONFIG} has no valid {fields}") from None
