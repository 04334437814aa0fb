"""Summarization: a document in, a short text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from isolora.json_types import JsonMapping
from isolora.metrics.rouge import rouge_per_example
from isolora.tasks.pairs import Pair
from isolora.tasks.prompted import Prompted, PromptedSettings
from isolora.tasks.rows import text_problem, usable_rows

if TYPE_CHECKING:
    from isolora.data import Documents


class SummarizationSettings(PromptedSettings):
    prefix: str = Field("", description="what stands before a document, such as T5's 'summarize: '")
    suffix: str | None = Field(None, description="what stands behind it; when absent, TL;DR: for decoders and nothing for others")


class Summarization(Prompted):
    """Scored by ROUGE over words of any script: letters of every alphabet, and single characters where a script has no spaces."""

    name: ClassVar[str] = "summarization"
    Settings: ClassVar[type[BaseModel]] = SummarizationSettings
    columns: ClassVar[Mapping[str, bool]] = {"system": False, "document": True, "summary": True}

    def problem(self, row: JsonMapping) -> str:
        return text_problem(row, "document", "summary", optional=("system",))

    def pairs(self, documents: Documents) -> list[Pair]:
        return [self._pair(row) for row in usable_rows(self, documents)]

    def _pair(self, row: JsonMapping) -> Pair:
        """A system prompt in a column of its own stands in front of everything."""
        asked = self.prompt(row["document"])
        context = f"{row['system']}\n\n{asked.context}" if row.get("system") else asked.context
        return asked._replace(context=context, completion=row["summary"])

    def prompt(self, text: str) -> Pair:
        absent = "" if self.second else "\n\nTL;DR:"  # Radford et al. 2019, section 3.6
        return Pair(self.settings.prefix + text, absent if self.settings.suffix is None else self.settings.suffix)

    def rate(self, references: Sequence[str], predictions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """ROUGE, the longest common subsequence first: it is the one that word order counts in."""
        scores = rouge_per_example(references, predictions)
        return {name: scores[name] for name in ("rougeL", "rougeLsum", "rouge1", "rouge2")}


task = Summarization()
