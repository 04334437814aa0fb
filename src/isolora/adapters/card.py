"""The model card of an adapter, with the front matter that the hub reads, from its record alone.

Everything in a record may be a stranger's: texts stand in code spans, where Markdown and HTML mean nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import yaml

from isolora.json_types import JsonMapping, JsonObject

CARD = "README.md"
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
AUTO_CLASS = re.compile(r"AutoModel\w*")
LONGEST = 400
"""Characters of one text in a card; AdaLoRA's ranks of all layers would fill a page."""
PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}
"""The hub's name for what a model of this class does; none where it depends on the task."""

Record = JsonMapping


def card(record: Record, form: str = "adapter") -> str:
    """Markdown with a YAML head. form: "adapter" for the folder that training wrote, "peft" or "merged" for an export."""
    parts = [_head(record, form), _title(record, form), _training(record), _scores(record), _law(record), _use(record, form)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(record: Record, form: str) -> str:
    config = record["config"]
    method, model, source = config["method"]["name"], _origin(record, "model"), _origin(record, "data")
    library = "transformers" if form == "merged" else record.get("format")
    head: JsonObject = {"library_name": library if library in ("transformers", "peft") else "isolora"}
    if model == "hub":
        head |= {"base_model": config["model"], "base_model_relation": "finetune" if form == "merged" else "adapter"}
    if source == "hub":
        head["datasets"] = [config["data"]["source"].split(":")[0]]
    if pipeline := PIPELINES.get(record.get("auto_class", "")):
        head["pipeline_tag"] = pipeline
    head["tags"] = ["isolora", method, config["task"]["name"]]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _title(record: Record, form: str) -> str:
    config = record["config"]
    what = "merged into" if form == "merged" else "for"
    return (
        f"# {code(config['method']['name'])} {what} {code(shown(record, 'model'))}\n\n"
        f"An adapter for the task {code(config['task']['name'])}, trained with isolora on {code(shown(record, 'data'))}."
    )


def _training(record: Record) -> str:
    config = record["config"]
    method = {key: value for key, value in config["method"].items() if key != "name"}
    rows = {
        "base model": f"{code(shown(record, 'model'))}, weights {code(record.get('base'))}",
        "method": f"{code(config['method']['name'])} {code(method)}",
        "data": f"{code(shown(record, 'data'))}, {markdown(record.get('unique_examples'))} distinct examples",
        "tokens": (
            f"{markdown(record.get('tokens'))} in {markdown(record.get('step'))} steps, {markdown(record.get('passes'))} passes"
        ),
        "FLOPs": f"{markdown(record.get('flops'))}, counted exactly: forward, to inputs, to weights, padding included",
        "trained parameters": f"{markdown(record.get('trainable_parameters'))} of {markdown(record.get('model_parameters'))}",
        "learning rate": markdown(config["training"]["learning_rate"]),
        "seed": markdown(config["seed"]),
        "decided in training": code(record["adapter"]) if record.get("adapter") else "",
    }
    return "## Training\n\n" + _table(("", ""), rows)


def _scores(record: Record) -> str:
    rows = {"loss (nats)": markdown(record.get("loss"))}
    rows |= {code(name): markdown(value) for name, value in record.get("metrics", {}).items()}
    split = record["config"]["data"]["eval_split"]
    return f"## Held-out scores\n\nOn the {code(split)} split, which was not trained on.\n\n" + _table(("measure", "value"), rows)


def _law(record: Record) -> str:
    """What a study's law predicted for this very run, beside what was measured."""
    proof = record.get("verification")
    if not proof:
        return ""
    low, high = (markdown(bound) for bound in proof["interval"])
    where = "inside" if proof["inside_interval"] else "outside"
    target = str(proof.get("target", "loss"))
    shown_target = "loss" if target == "loss" else code(target)
    ahead = isinstance(factor := proof["flops_over_largest_fitted"], int | float) and factor > 1
    verb = "predicted" if ahead else "expected"  # within what was measured it is no prediction
    return (
        "## Prediction\n\n"
        f"A scaling law fitted to {'smaller' if ahead else 'other'} runs recommended this one and {verb} its held-out"
        f" {shown_target}.\n\n"
        + _table(
            ("", ""),
            {
                "law": code(proof["law"]) if proof.get("law") else "",
                f"{verb} {shown_target}": f"{markdown(proof['predicted'])} (95 % interval {low} to {high})",
                f"measured {shown_target}": f"{markdown(proof['measured'])}, {where} the interval",
                "FLOPs over the largest fitted run": markdown(proof["flops_over_largest_fitted"]),
            },
        )
    )


def _use(record: Record, form: str) -> str:
    given = record.get("auto_class", "")
    auto_class = given if AUTO_CLASS.fullmatch(given) else "AutoModel"
    if form == "merged":
        return "## Use\n\n" + _python(
            f"from transformers import {auto_class}, AutoTokenizer",
            f'model = {auto_class}.from_pretrained("this-folder")',
            'tokenizer = AutoTokenizer.from_pretrained("this-folder")',
        )
    own = _python("import isolora", 'adapter = isolora.load("this-folder")', *_call(auto_class))
    return "\n\n".join(["## Use", own, *_with_peft(record, auto_class)])


def _call(auto_class: str) -> list[str]:
    """What a loaded adapter is asked, where it can be asked anything."""
    calls = {"classification": 'print(adapter.classify(["a text"]))', "generation": 'print(adapter.generate("a text"))'}
    pipeline = PIPELINES.get(auto_class, "")
    return [call for kind, call in calls.items() if pipeline.endswith(kind)]


def _with_peft(record: Record, auto_class: str) -> Iterator[str]:
    """PEFT loads its own format onto a base that it is given; a base that is not on the hub has to be found first."""
    if record.get("format") != "peft":
        return
    where = {"hub": "", "packaged": " (it comes with isolora)", "folder": " (a local folder: put its path there)"}
    name = json.dumps(shown(record, "model").replace("`", "'"))
    packaged = _origin(record, "model") == "packaged"
    labels = f", num_labels={len(record['labels'])}" if record.get("labels") else ""
    yield f"Or with PEFT, on its base model{where[_origin(record, 'model')]}:"
    yield _python(
        f"from transformers import {auto_class}",
        "from peft import PeftModel",
        *(["from isolora.models import locate"] if packaged else []),
        f"base = {auto_class}.from_pretrained({f'locate({name})' if packaged else name}{labels})",
        'model = PeftModel.from_pretrained(base, "this-folder")',
    )


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _origin(record: Record, what: str) -> str:
    """Where the base model or the data came from: packaged, folder or hub; a hub's only with the form of an id."""
    config = record["config"]
    name = config["model"] if what == "model" else config["data"]["source"].split(":")[0]
    origin: str = record.get("origins", {}).get(what, "folder")
    return origin if origin in ("packaged", "folder") or HUB_ID.fullmatch(name) else "folder"


def shown(record: Record, what: str) -> str:
    """A name for readers: of a local path only its last part, which says nothing about somebody's machine."""
    config = record["config"]
    name: str = config["model"] if what == "model" else config["data"]["source"]
    return name if _origin(record, what) != "folder" else name.rstrip("/").rpartition("/")[2]


def code(value: object) -> str:
    """A code span: one line, without anything that could end it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    line = " ".join(text.replace("`", "'").replace("|", "/").split())
    return f"`{line if len(line) <= LONGEST else f'{line[:LONGEST]} ...'}`" if line else "-"


def markdown(value: object) -> str:
    """Digits for a person; anything else as code."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return code(value)
    return f"{value:,.0f}" if isinstance(value, int) or (value.is_integer() and value >= 1e5) else f"{value:.5g}"


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items() if value)]
    return "\n".join(lines)
