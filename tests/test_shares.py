"""Points between a run's first and its last, measured on a share of the held-out examples."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny
import torch

from isolora import registry
from isolora.config import RunConfig, TaskConfig
from isolora.cost.estimate import cost
from isolora.cost.flops import rehearse
from isolora.data import Documents
from isolora.ledger import BatchShape
from isolora.metrics.predictions import Predictions
from isolora.runs.prepared import HeldOut, RunExamples
from isolora.runs.progress import Progress
from isolora.store import Store
from isolora.training import train
from isolora.training.evaluator import Evaluator
from isolora.training.shares import HeldOutShares, dealt

torch.set_num_threads(1)
FIRST, LENGTHS = 100, [3, 12, 5, 7, 9, 4, 11, 6]


def held_out() -> HeldOut:
    task = registry.load_plug_in("task", "causal-lm")
    return HeldOut(task, tiny.examples(LENGTHS), Documents(pa.table({"text": []}), "{text}"))


def run_examples(on: HeldOut) -> RunExamples:
    return RunExamples(on.examples, on, {}, {}, ())


def losses_at(tokens: int, bend: float = 0.0) -> np.ndarray[Any, Any]:
    """Summed losses of the examples, each of which falls at a rate of its own with the logarithm of tokens."""
    counts, way = held_out().examples.label_counts, math.log(tokens / FIRST)
    return counts * (5 - np.linspace(0.1, 0.4, len(counts)) * way + bend * way**2)


def test_shares_hold_every_example_once_and_are_of_like_sizes() -> None:
    on = held_out()
    parts = dealt(on.examples, 3)
    assert [len(part) for part in parts] == [3, 3, 2]
    assert sorted(np.concatenate(parts)) == list(range(8))
    assert max(on.examples.sizes[part].mean() for part in parts) < 1.3 * min(on.examples.sizes[part].mean() for part in parts)
    assert len(dealt(on.examples, 8)) == len(dealt(on.examples, 100)) == 1


def test_what_goes_with_the_logarithm_of_tokens_is_found_exactly() -> None:
    """Each example's loss is a line of its own, and the last evaluation tells how the shares part."""
    on, progress, shares = held_out(), Progress(tokens=FIRST), HeldOutShares(run_examples(held_out()), 2)
    assert not shares.note_whole(progress, losses_at(FIRST))
    for number, tokens in enumerate((150, 220, 400, 700, 1000)):
        rows = shares.shares[number % 4].rows
        progress.share_losses.append((tokens, on.mean_loss(losses_at(tokens), rows)))
    progress.tokens = 1600
    broken = np.where(np.arange(8) == 3, np.nan, losses_at(1600))
    assert shares.note_whole(progress, broken) == {}, "a run that diverged at its end keeps the points that it has"
    settled = {tokens: found["loss"] for tokens, found in shares.note_whole(progress, losses_at(1600)).items()}
    assert progress.first_evaluation == FIRST, "there is one first evaluation"
    assert settled == pytest.approx({tokens: on.mean_loss(losses_at(tokens)) for tokens in (150, 220, 400, 700, 1000)}, rel=1e-12)
    before = {tokens: loss + progress.share_gaps[number % 4] for number, (tokens, loss) in enumerate(progress.share_losses)}
    assert max(abs(before[tokens] - settled[tokens]) for tokens in settled) > 0.01, "the last evaluation adds something"


def a_run(folder: Path, between: int | None, **changes: Any) -> RunConfig:
    found = tiny.from_files(folder, **{"tokens": 1500, "evaluate_ratio": 1.4, "evaluate_between": between, **changes})
    tiny.texts(folder / "texts.txt", 120)
    return found.model_copy(update={"data": found.data.model_copy(update={"eval_examples": 12})})


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Examples of every evaluation."""
    found: list[int] = []
    real = Evaluator.row_losses

    def row_losses(self: Any, on: Any, members: Any) -> Any:
        found.append(len(on.examples))
        return real(self, on, members)

    monkeypatch.setattr(Evaluator, "row_losses", row_losses)
    yield found


def points_of(folder: Path) -> list[dict[str, Any]]:
    return Store(folder).points()


def test_a_run_measured_on_shares_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(a_run(tmp_path, None), tmp_path / "whole", quiet=True)
    with counted(monkeypatch) as examples:
        train(a_run(tmp_path, 3), tmp_path / "shares", quiet=True)
    whole, shares = points_of(tmp_path / "whole"), points_of(tmp_path / "shares")
    assert examples == [12, *[3] * (len(whole) - 2), 12]
    assert len(whole) > 5
    for point in shares:
        assert json.loads(point["metrics"])["perplexity"] == pytest.approx(math.exp(point["loss"]), rel=1e-9)
    same = ("tokens", "flops", "step", "unique_tokens", "train_loss")
    assert [[point[name] for name in same] for point in shares] == [[point[name] for name in same] for point in whole]
    assert [shares[at]["loss"] for at in (0, -1)] == [whole[at]["loss"] for at in (0, -1)]
    errors = [abs(ours["loss"] / theirs["loss"] - 1) for ours, theirs in zip(shares, whole, strict=True)]
    assert 0 < max(errors) < 0.05  # of shares of three short texts; of 27 out of 80 descriptions it is 0.001
    sha = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("whole", "shares")]
    assert sha[0] == sha[1]


@pytest.mark.parametrize(("between", "ratio"), [(None, 1.4), (3, 1.4), (5, 3.0), (4, 100.0)])
def test_a_run_is_told_what_its_held_out_losses_take(
    between: int | None, ratio: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = a_run(tmp_path, between, evaluate_ratio=ratio)
    (tmp_path / "texts.txt").write_text("\n\n".join(f"w{k % 50} w{k % 49} w{k % 48} w{k % 47}" for k in range(2000, 2120)))
    said = cost(config)
    with counted(monkeypatch) as examples:
        train(config, tmp_path / "out", quiet=True)
    one = rehearse(config).flops(BatchShape(1, 4, 3)).forward
    assert said.evaluation_flops == pytest.approx(sum(examples) * one, rel=1e-9)
    assert sum(examples) > 24 or ratio == 100
    assert f"{said.evaluation_flops:.3g} beside them" in str(said)


def test_points_of_an_interrupted_run_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    class Interrupted(Exception): ...

    def stack(points: list[Any]) -> Any:
        config = tiny.run(tokens=1500, evaluate_ratio=1.4, evaluate_between=1)
        return tiny.stack([config], points, held_out=tiny.examples(LENGTHS, seed=2))

    def settled(made: Any, folder: Path, until: float = math.inf) -> dict[int, float]:
        def on_step(running: Any) -> None:
            if running.members[0].progress.tokens > until:
                raise Interrupted

        loop, found = tiny.loop(made, folder, 1e9, on_step), {}
        for observer in loop.observers[:1]:
            observer.on_settled = lambda stack, k, measures: found.update({at: of["loss"] for at, of in measures.items()})
        loop.run()
        return found

    undisturbed = settled(stack(whole := []), tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        settled(stack(first := []), tmp_path / "cut", until=700)
    resumed = settled(stack(second := []), tmp_path / "cut")
    assert resumed == undisturbed
    assert len(undisturbed) > 4
    assert [point.loss for point in (*first, *second)] == [point.loss for point in whole]


def test_a_study_measured_on_shares(tmp_path: Path) -> None:
    from isolora import load_study, run_study

    (tmp_path / "study.yaml").write_text(
        "base: {data: {source: debian-descriptions, train_examples: 200, eval_examples: 16},"
        " training: {tokens: 4000, batch_tokens: 512, evaluate_from: 1000, evaluate_ratio: 1.5, evaluate_between: 4}}\n"
        "grid: {model: [nano-55k], method.rank: [2, 8]}\n"
    )
    run_study(load_study(tmp_path / "study.yaml"), tmp_path / "study")
    by_run: dict[str, list[float]] = {}
    for point in points_of(tmp_path / "study"):
        by_run.setdefault(point["run"], []).append(point["loss"])
    assert [len(losses) for losses in by_run.values()] == [5, 5]
    assert all(losses[0] > losses[-1] for losses in by_run.values())


def answers_at(tokens: int) -> dict[str, Predictions]:
    """Each document's reward is a line of its own over the logarithm of tokens; every second one has a second score."""
    rewards = np.linspace(0.1, 0.4, 8) * math.log(tokens / FIRST) + np.arange(8)
    return {"": Predictions.of_means({"reward_margin": rewards, "f1.B": np.where(np.arange(8) % 2, np.nan, 0.5)})}


def test_scores_go_with_the_logarithm_of_tokens_too() -> None:
    on = held_out()
    on = HeldOut(on.task, on.examples, Documents(pa.table({"text": [""] * 8}), "{text}"))
    progress, shares = Progress(tokens=FIRST), HeldOutShares(run_examples(on), 2)
    shares.note_whole(progress, losses_at(FIRST), answers_at(FIRST))
    for number, tokens in enumerate((150, 220, 400, 700, 1000)):
        share = shares.shares[number % 4]
        progress.share_losses.append((tokens, on.mean_loss(losses_at(tokens), share.rows)))
        progress.share_scores.append(share.scores(answers_at(tokens)))
    progress.tokens = 1600
    settled = shares.note_whole(progress, losses_at(1600), answers_at(1600))
    margins = {tokens: found["reward_margin"] for tokens, found in settled.items()}
    assert margins == pytest.approx({tokens: answers_at(tokens)[""].measures()["reward_margin"] for tokens in margins}, rel=1e-12)
    known = [any(row % 2 == 0 for row in share.rows) for share in shares.shares]
    assert [("f1.B" in found) for found in settled.values()] == [known[number % 4] for number in range(5)]


def test_a_score_is_moved_no_further_than_to_its_ends() -> None:
    from isolora.training.shares import _corrected

    scores = {"accuracy": 0.9, "f1": 0.1, "matthews": -0.2, "reward_margin": 0.9, "accuracy.B": 0.5}
    gaps = {"accuracy": 0.2, "f1": -0.3, "matthews": -0.3, "reward_margin": 0.4}
    expected = {"accuracy": 1.0, "f1": 0.0, "matthews": -0.2, "reward_margin": 1.3}
    assert _corrected(scores, gaps) == pytest.approx(expected)


SCORED = {
    "sequence-classification": ["data.source=debian-descriptions", "data.max_length=64"],
    "token-classification": ["data.source=pii-synthetic", "data.max_length=64"],
    "question-answering": ["data.source=debian-questions", "data.max_length=128"],  # several windows a document
    "preference": ["data.source=debian-preferences", "data.max_length=128"],
}


@pytest.mark.parametrize("task", SCORED)
def test_a_share_answers_alone_as_it_does_among_all(task: str) -> None:
    from isolora import load_run
    from isolora.runs.workspace import Workspace
    from isolora.training.training_run import loaded_stack

    sizes = ["data.train_examples=40", "data.eval_examples=30", "training.tokens=2000", "training.batch_tokens=512"]
    run = load_run(None, ["model=nano-55k", f"task={task}", *sizes, "data.on_error=skip", *SCORED[task]])
    with loaded_stack([run], ["run"], Workspace()) as (stack, evaluator, _):
        shares = HeldOutShares(stack.examples, 6)
        stack.attached.train(True)
        for _ in range(3):
            stack.step()
        stack.attached.train(False)
        losses, answers = evaluator.losses_and_predictions(stack.examples, [0], [0])
        assert len(shares.shares) > 2
        for share in shares.shares:
            own, alone = evaluator.losses_and_predictions(share.examples, [0], [0])
            among, scores = share.scores(answers[0]), alone[0][""].measures()
            assert own[0] == pytest.approx(losses[0][share.rows], rel=1e-4, abs=1e-5)
            if among.keys() <= scores.keys():
                assert scores == pytest.approx(among, rel=1e-3, abs=1e-5)
            else:
                assert all(share.examples.held_out.documents.fields["answers"]), "each has an answer, and not so among all"


def test_a_scored_run_measured_on_shares_is_the_same_run(tmp_path: Path) -> None:
    rows = [{"text": f"w{k % 7} w{k % 5}", "label": "ab"[k % 2]} for k in range(80)]
    found = {}
    for between in (None, 3):
        run = tiny.from_rows(
            tmp_path, "bert_classifier", "sequence-classification", rows, tokens=2000, evaluate_from=100, evaluate_between=between
        )
        run = run.model_copy(update={"data": run.data.model_copy(update={"eval_examples": 12})})
        train(run, tmp_path / str(between), quiet=True)
        found[between] = [json.loads(point["metrics"]) for point in points_of(tmp_path / str(between))]
    whole, shares = found[None], found[3]
    assert len(whole) == len(shares) > 4
    assert [shares[at] for at in (0, -1)] == [whole[at] for at in (0, -1)]
    assert all(0 <= point["accuracy"] <= 1 for point in shares)


@pytest.mark.parametrize("score_at", ["end", "points"])
def test_a_run_that_generates_for_few_documents_is_measured_on_shares(tmp_path: Path, score_at: str) -> None:
    """Scores are of the first documents alone, so that those between the ends are not to be had from shares."""
    rows = [{"prompt": f"w{k % 7}", "completion": f"w{k % 5}"} for k in range(80)]
    run = tiny.from_rows(tmp_path, "llama", "instruction", rows, tokens=2000, evaluate_from=100, evaluate_between=3)
    task = TaskConfig(name="instruction", score_examples=4, max_new_tokens=2, score_at=score_at)
    run = run.model_copy(update={"task": task, "data": run.data.model_copy(update={"eval_examples": 12})})
    assert train(run, tmp_path / "out", quiet=True)["state"] == "complete"
    found = ["exact_match" in json.loads(point["metrics"]) for point in points_of(tmp_path / "out")]
    assert found == [score_at == "points", *[False] * (len(found) - 2), True]


def test_a_run_without_it_keeps_its_name() -> None:
    run = tiny.run()
    assert (
        run.model_copy(update={"training": run.training.model_copy(update={"evaluate_between": 5})}).identity() != run.identity()
    )
    assert "evaluate_between" in run.model_dump()["training"]
