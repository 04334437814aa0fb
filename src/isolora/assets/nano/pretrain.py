"""Pretrain the nano family: one tokenizer, four LLaMA decoders, every size on the same tokens in the same order.

    python make_text.py --out BUILD_DIR
    python pretrain.py --build BUILD_DIR tokenizer
    python pretrain.py --build BUILD_DIR nano-55k        # and nano-150k, nano-440k, nano-1m
    python pretrain.py --build BUILD_DIR card            # model card, hashes

Resumes from the last state in BUILD_DIR. Seeded; on one thread of one machine type it repeats bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
SEED = 20261122
VOCABULARY = 4096
LENGTH = 256
BATCH = 16  # sequences; 4,096 tokens a step
PEAK_LEARNING_RATE = {"nano-55k": 8e-3, "nano-150k": 7e-3, "nano-440k": 5e-3, "nano-1m": 4e-3}
WARMUP_STEPS = 100
HELD_OUT_SEQUENCES = 128
STATE_EVERY = 200
SHAPES = {  # hidden size, layers, feed-forward size; heads are 16 wide
    "nano-55k": (48, 2, 128),
    "nano-150k": (64, 3, 176),
    "nano-440k": (96, 4, 256),
    "nano-1m": (128, 5, 352),
}


def train_tokenizer(build: Path) -> None:
    """Byte-level BPE on the pretraining text, and that text as one array of token ids."""
    lines = (build / "text.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=["<|endoftext|>", "<|pad|>"])
    bpe.save(str(build / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(build / "tokenizer.json"),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=LENGTH,
    )
    for name in SHAPES:
        tokenizer.save_pretrained(HERE / name)
    rows = [[*encoding.ids, 0] for encoding in bpe._tokenizer.encode_batch(texts)]
    ids = np.concatenate([np.asarray(row, dtype=np.uint16) for row in rows])
    ids = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
    np.save(build / "tokens.npy", ids[np.random.default_rng(SEED).permutation(len(ids))])
    print(f"{ids.size:,} tokens, {sum(map(len, texts)) / ids.size:.2f} characters a token")


def new_model(name: str) -> LlamaForCausalLM:
    hidden, layers, feed_forward = SHAPES[name]
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 16,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Head, softmax and their gradients, 256 tokens at a time: the logits stay in the cache (1.2 to 1.8 x the whole step)."""

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), 256):
            rows, wanted = hidden[start : start + 256], targets[start : start + 256]
            logits = rows @ weight.T
            top = logits.amax(1, keepdim=True)
            picked = logits.gather(1, wanted[:, None])
            normaliser = logits.sub_(top).exp_().sum(1, keepdim=True)
            total += (normaliser.log() + top - picked).sum()
            logits.div_(normaliser)[torch.arange(len(wanted)), wanted] -= 1
            torch.mm(logits, weight, out=hidden_gradient[start : start + 256])
            weight_gradient.addmm_(logits.T, rows)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return total

    @staticmethod
    def backward(ctx, gradient):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradient, weight_gradient * gradient, None


def summed_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Next-token cross-entropy summed over a batch [sequences, LENGTH]."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1].reshape(-1, model.config.hidden_size)
    targets = ids[:, 1:].reshape(-1)
    return ChunkedCrossEntropy.apply(hidden, model.lm_head.weight, targets)


def learning_rate(step: int, steps: int, peak: float) -> float:
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS))))


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    total = sum(float(summed_loss(model, rows)) for rows in ids.split(BATCH))
    return total / (len(ids) * (LENGTH - 1))


def pretrain(name: str, build: Path) -> None:
    torch.set_num_threads(1)
    tokens = torch.from_numpy(np.load(build / "tokens.npy").astype(np.int64))
    held_out, train = tokens[:HELD_OUT_SEQUENCES], tokens[HELD_OUT_SEQUENCES:]
    steps = len(train) // BATCH
    model = new_model(name)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1.0, betas=(0.9, 0.98), fused=True
    )
    state_file = build / f"{name}.state.pt"
    curve: list[dict[str, float]] = []
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        curve, first = state["curve"], state["step"]
    started = time.perf_counter()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK_LEARNING_RATE[name])
        batch = train[step * BATCH : (step + 1) * BATCH]
        loss = summed_loss(model, batch) / (BATCH * (LENGTH - 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % STATE_EVERY == 0 or done == steps:
            row = {"tokens": done * BATCH * LENGTH, "train_loss": float(loss), "held_out_loss": held_out_loss(model, held_out)}
            curve.append(row)
            rate = (done - first) * BATCH * LENGTH / (time.perf_counter() - started)
            print(f"{name} {done}/{steps} {row['train_loss']:.3f} {row['held_out_loss']:.4f} {rate:,.0f} tokens/s", flush=True)
            partial = state_file.with_suffix(".partial")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "curve": curve, "step": done}, partial)
            partial.replace(state_file)
    model.half().save_pretrained(HERE / name)
    (HERE / name / "curve.json").write_text(json.dumps(curve, indent=1) + "\n")


def body_weights(model: LlamaForCausalLM) -> int:
    return sum(p.numel() for p in model.model.layers.parameters())


def write_card() -> None:
    """README.md with the family's table and curve, and SHA256SUMS over every file that ships."""
    curves = {name: json.loads((HERE / name / "curve.json").read_text()) for name in SHAPES}
    lines = [
        "| model | non-embedding weights | all weights | pretraining tokens | held-out loss (nats a token) |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in SHAPES:
        model = LlamaForCausalLM.from_pretrained(HERE / name)
        last = curves[name][-1]
        total = sum(p.numel() for p in model.parameters())
        lines.append(f"| `{name}` | {body_weights(model):,} | {total:,} | {last['tokens']:,} | {last['held_out_loss']:.3f} |")
    lines += ["", "Held-out loss along the way:", "", "| tokens | " + " | ".join(f"`{name}`" for name in SHAPES) + " |"]
    lines += ["|--:|" + "--:|" * len(SHAPES)]
    marks = curves["nano-1m"]
    for index in sorted({min(2**k, len(marks)) - 1 for k in range(12)}):
        cells = " | ".join(f"{curves[name][index]['held_out_loss']:.3f}" for name in SHAPES)
        lines.append(f"| {marks[index]['tokens']:,} | {cells} |")
    template = (HERE / "card.md").read_text()
    (HERE / "README.md").write_text(template.replace("{{table}}", "\n".join(lines)))
    files = sorted(path for name in SHAPES for path in (HERE / name).iterdir())
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(HERE)}\n" for path in files)
    (HERE / "SHA256SUMS").write_text(sums)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("what", choices=["tokenizer", *SHAPES, "card"])
    arguments = parser.parse_args()
    if arguments.what == "tokenizer":
        train_tokenizer(arguments.build)
    elif arguments.what == "card":
        write_card()
    else:
        pretrain(arguments.what, arguments.build)


if __name__ == "__main__":
    main()
