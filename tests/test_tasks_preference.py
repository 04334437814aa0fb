"""Preference: DPO's loss by hand and by TRL, a reference taken once, rewards that count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn.functional import log_softmax

from isolora import registry
from isolora.errors import DataError
from isolora.models import Base
from isolora.runs.batches import collate
from isolora.tasks.base import IGNORED, Batch, Examples
from isolora.training import training_run
from isolora.training.evaluator import Evaluator

torch.set_num_threads(1)
ROWS = [
    {"prompt": "w5 w6 w7", "chosen": "w8 w9", "rejected": "w10"},
    {"prompt": "w6", "chosen": "w11", "rejected": "w12 w13 w14"},
    {"prompt": "w7 w8", "chosen": "w15 w16 w17", "rejected": "w18 w19"},
]


def bound(**settings: Any) -> Any:
    task = registry.load_plug_in("task", "preference")
    return task.bound(task.Settings(**settings))


def adapted() -> Any:
    """A model with an adapter that already says something."""
    method = registry.load_plug_in("method", "lora")
    attached = method.attach(tiny.llama(), [method.settings({"rank": 4})], [0])
    for layer in attached.layers.values():
        torch.nn.init.normal_(layer.b[0], std=0.3, generator=torch.Generator().manual_seed(1))
    return attached


def evaluator(attached: Any) -> Evaluator:
    return Evaluator(tiny.run(batch_tokens=32), Base("tiny", attached.model, tiny.tokenizer(), 0, 0, 64), attached)


def referenced(task: Any, attached: Any, rows: list[dict[str, Any]] = ROWS) -> Examples:
    examples = task.examples(tiny.documents(rows), tiny.tokenizer(eos_token="w60"), 64)
    values = evaluator(attached).reference_scores(task, examples)
    return Examples(examples.ids, examples.labels, examples.starts, examples.second, values, examples.documents)


def batch_of(examples: Examples) -> Batch:
    return collate(examples, np.arange(len(examples)), np.full(len(examples), 0.5, np.float32), 0)


@torch.no_grad()
def by_hand(model: Any, row: dict[str, str]) -> list[tuple[float, int]]:
    """(log-probability, tokens) of both answers, each in a row of its own."""
    found = []
    for side in ("chosen", "rejected"):
        ids = [int(word[1:]) for word in f"{row['prompt']} {row[side]} w60".split()]
        start = len(row["prompt"].split())
        each = log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
        found.append((sum(float(each[place - 1, ids[place]]) for place in range(start, len(ids))), len(ids) - start))
    return found


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_loss_by_hand(loss_type: str) -> None:
    beta, attached = 0.3, adapted()
    task = bound(beta=beta, loss_type=loss_type)
    loss = task.loss(attached.model, batch_of(referenced(task, attached)))
    expected = []
    for row in ROWS:
        tuned = by_hand(attached.model, row)
        with attached.rows(()):
            base = by_hand(attached.model, row)
        gains = [(own[0] - other[0]) / (own[1] if loss_type == "ipo" else 1) for own, other in zip(tuned, base, strict=True)]
        apart = gains[0] - gains[1]
        expected.append((apart - 1 / (2 * beta)) ** 2 if loss_type == "ipo" else np.log1p(np.exp(-beta * apart)))
    assert loss.row_losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert float(loss.objective.detach()) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_a_fresh_adapter_is_its_reference() -> None:
    """log 2 an example and no accuracy, ties being wrong."""
    method = registry.load_plug_in("method", "lora")
    attached, task = method.attach(tiny.gpt2(), [method.settings({"rank": 4})], [0]), bound()
    batch = batch_of(referenced(task, attached))
    assert task.loss(attached.model, batch).row_losses.tolist() == pytest.approx([np.log(2)] * 3)
    with torch.no_grad():
        scores = task.predictions(attached.model, None, None, None, lambda: iter([(np.arange(3), batch)])).measures()
    assert scores["reward_margin"] == pytest.approx(0, abs=1e-6)


def test_rewards_count() -> None:
    attached, task = adapted(), bound(beta=0.5)
    with torch.no_grad():
        batch = batch_of(referenced(task, attached))
        gains = 0.5 * (task.reference(attached.model, batch) - batch.values)
        scores = task.predictions(attached.model, None, None, None, lambda: iter([(np.arange(3), batch)])).measures()
    assert next(iter(scores)) == "reward_accuracy"
    assert scores["reward_accuracy"] == pytest.approx(float((gains[:, 0] > gains[:, 1]).float().mean()))
    assert scores["reward_margin"] == pytest.approx(scores["chosen_reward"] - scores["rejected_reward"])
    assert scores["chosen_reward"] == pytest.approx(float(gains[:, 0].mean()), rel=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_loss_is_trls(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    attached, task = adapted(), bound(beta=0.3)
    attached.save(0, tmp_path / "adapter")
    spaced = [{**row, "prompt": row["prompt"] + " "} for row in ROWS]  # TRL joins texts, this tokenizer splits at spaces
    plain = {"bf16": False, "use_cpu": True, "report_to": [], "activation_checkpointing": False}
    args = trl.DPOConfig(tmp_path, beta=0.3, per_device_train_batch_size=3, **plain)
    peft_config = LoraConfig.from_pretrained(tmp_path / "adapter", inference_mode=False)
    data, tokenizer = Dataset.from_list(spaced), tiny.tokenizer(eos_token="w60")
    trainer = trl.DPOTrainer(tiny.llama(), args=args, train_dataset=data, processing_class=tokenizer, peft_config=peft_config)
    set_peft_model_state_dict(trainer.model, load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    (batch,) = trainer.get_train_dataloader()
    theirs = trainer.compute_loss(trainer.model, batch)
    ours = task.loss(attached.model, batch_of(referenced(task, attached))).row_losses.mean()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_answers_stand_behind_their_prompt_with_their_ends() -> None:
    examples = bound().examples(tiny.documents(ROWS[:1]), tiny.tokenizer(eos_token="w60"), 64)
    assert examples.ids.tolist() == [5, 6, 7, 8, 9, 60]
    assert examples.labels.tolist() == [IGNORED, IGNORED, 8, 9, 60, IGNORED]
    assert (examples.second.ids.tolist(), examples.second.labels.tolist()) == (
        [5, 6, 7, 10, 60],
        [IGNORED, IGNORED, 10, 60, IGNORED],
    )
    assert examples.sizes.tolist() == [11]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)]


@pytest.mark.parametrize("with_prompt", [True, False])
def test_conversations_share_their_beginning(with_prompt: bool) -> None:
    """A prompt of its own, or the turns that both sides open with."""
    whole = {"chosen": turns("w5", "w6", "w7", "w8 w9"), "rejected": turns("w5", "w6", "w7", "w10")}
    row = {"prompt": whole["chosen"][:3], **{side: talk[3:] for side, talk in whole.items()}} if with_prompt else whole
    examples = bound(template=tiny.CHAT).examples(tiny.documents([row]), tiny.tokenizer(eos_token="w60"), 64)
    assert examples.labels[examples.labels != IGNORED].tolist() == [8, 9, 59]
    assert examples.second.labels[examples.second.labels != IGNORED].tolist() == [10, 59]
    assert examples.ids.tolist()[:10] == examples.second.ids.tolist()[:10]


def test_the_reference_is_taken_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**ROWS[number % 3], "prompt": tiny.words(4, number)} for number in range(40)]
    config = tiny.from_rows(tmp_path, "llama", "preference", rows, steps=2)
    taken: list[int] = []
    scores = Evaluator.reference_scores
    monkeypatch.setattr(Evaluator, "reference_scores", lambda *given: taken.append(1) or scores(*given))
    training_run.train(config, tmp_path / "first", quiet=True)
    assert len(taken) == 2, "training and held-out examples"
    training_run.train(config.model_copy(update={"seed": 1}), tmp_path / "second", quiet=True)
    assert len(taken) == 2
    model = tiny.llama()
    model.lm_head.weight.data *= 1.1
    model.save_pretrained(config.model)
    training_run.train(config, tmp_path / "third", quiet=True)
    assert len(taken) == 4, "another base"


def test_the_reference_keeps_the_order_of_the_examples() -> None:
    task, attached = bound(), adapted()
    values = referenced(task, attached).values
    with attached.rows(()):
        expected = [[side[0] for side in by_hand(attached.model, row)] for row in ROWS]
    assert values == pytest.approx(np.array(expected), rel=1e-5)
    examples = tiny.stack([tiny.run()]).examples
    assert evaluator(attached).with_references(examples) is examples, "a task that uses no reference"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "w5", "chosen": "", "rejected": "w6"}, "chosen is empty"),
        ({"prompt": " ", "chosen": "w5", "rejected": "w6"}, "prompt is empty"),
        ({"prompt": "w5", "chosen": "w6", "rejected": None}, "rejected holds nothing, not text"),
        ({"chosen": turns("w5", "w6"), "rejected": turns("w5", "w6")}, "chosen equals rejected"),
        (
            {"chosen": turns("w5", "w6"), "rejected": turns("w5", "w6")[1:]},
            "rejected: the conversation starts with the assistant",
        ),
    ],
)
def test_a_pair_that_cannot_be_used_is_named(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"row 1 of those drawn: {said}") as caught:
        bound().examples(tiny.documents([row]), tiny.tokenizer(), 64)
    assert "\n" not in str(caught.value)
