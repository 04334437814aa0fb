"""Instruction: any data set through a prompt template; only the completion is learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from isolora.json_types import JsonMapping
from isolora.metrics.predictions import Predictions
from isolora.metrics.rouge import rouge_per_example
from isolora.tasks.base import Batches, Examples
from isolora.tasks.pairs import Pair
from isolora.tasks.prompt_templates import Template, fill_template
from isolora.tasks.prompted import Prompted, PromptedSettings
from isolora.tasks.rows import is_blank, usable_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from isolora.data import Documents


class InstructionSettings(PromptedSettings):
    template: Template = Field(
        "{% if system is defined and system %}{{ system }}\n\n{% endif %}{{ prompt }}",
        description="prompt in Jinja over the data's columns, or a file that holds it; system and prompt when absent",
    )
    completion: Template = Field("{{ completion }}", description="what the answer should be, likewise")


class Instruction(Prompted):
    """A column `task`, where there is one, says which of several tasks a row is of; each is scored on its own too."""

    name: ClassVar[str] = "instruction"
    Settings: ClassVar[type[BaseModel]] = InstructionSettings
    columns: ClassVar[Mapping[str, bool]] = {"prompt": False, "completion": False, "task": False}
    either: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "completion"),)

    def problem(self, row: JsonMapping) -> str:
        pair = self._pair(row)
        if is_blank(pair.question):
            return "the prompt is empty"
        return "the completion is empty" if is_blank(pair.completion) else ""

    def pairs(self, documents: Documents) -> list[Pair]:
        return [self._pair(row) for row in usable_rows(self, documents)]

    def _pair(self, row: JsonMapping) -> Pair:
        return Pair(
            "", fill_template("template", self.settings.template, row), fill_template("completion", self.settings.completion, row)
        )

    def prompt(self, text: str) -> Pair:
        return Pair("", text)

    def rate(self, references: Sequence[str], predictions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Exact match (0..1) up to white space around a text, and ROUGE."""
        pairs = zip(references, predictions, strict=True)
        exact = np.array([reference.strip() == prediction.strip() for reference, prediction in pairs], np.float64)
        return {"exact_match": exact} | rouge_per_example(references, predictions)

    def predictions(
        self,
        model: PreTrainedModel,
        examples: Examples,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
    ) -> Predictions:
        rows, references, predictions = self.generated(model, examples, documents, tokenizer)
        rated = self.rate(references, predictions)
        names = documents.fields.get("task") or []
        by_task: dict[str, NDArray[np.float64]] = {}
        for name in sorted({names[row] for row in rows}) if names else ():
            own = np.array([names[row] == name for row in rows])
            by_task |= {f"{name}/{measure}": np.where(own, values, np.nan) for measure, values in rated.items()}
        return Predictions.of_means(rated | by_task)


task = Instruction()
