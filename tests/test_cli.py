"""The command line: one line and exit status 2 for what a person got wrong, one JSON object for who asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from person import run

COLUMNS = "run,model,rank,body_parameters,tokens,trainable_parameters,flops,loss\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "unknown-key.yaml").write_text("training: {tokens: 1000, learnin_rate: 1e-3}\n")
    (tmp_path / "object.yaml").write_text("model: !!python/object:os.system {}\n")
    (tmp_path / "latin.txt").write_bytes(b"first line\nna\xefve\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "no-loss.csv").write_text("tokens,model\n1,a\n")
    one_size = "".join(f"a,tiny,8,1000,{2**k},10,{2**k * 6000},{5 - k / 10}\n" for k in range(10, 20))
    (tmp_path / "one-size.csv").write_text(COLUMNS + one_size)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cost", "{}/unknown-key.yaml"], ["training.learnin_rate", "did you mean 'learning_rate'"]),
        (["cost", "training.batch_tokens=many"], ["training.batch_tokens", "integer", "'many'"]),
        (["cost", "{}/unknown-key.yaml", "training={tokens: 5, steps: 5}"], ["training", "exactly one of", "tokens and steps"]),
        (["cost", "{}/absent.yaml"], ["no such file", "absent.yaml"]),
        (["cost", "data.source={}/absent.txt"], ["absent.txt"]),
        (["cost", "data.source={}/empty.jsonl"], ["empty.jsonl"]),
        (["cost", "data.source={}/latin.txt"], ["latin.txt", "UTF-8"]),
        (["cost", "model=nano-2m"], ["model", "did you mean 'nano-1m'"]),
        (["cost", "batch=2", "length=1000"], ["length", "1000", "256"]),
        (["cost", "method.targets=[q_prj]"], ["method.targets", "q_proj"]),
        (["cost", "method.rank=4096"], ["method.rank", "4096"]),
        (["cost", "task=causal"], ["task", "causal-lm"]),
        (["fit", "{}/no-loss.csv"], ["loss", "tokens"]),
        (["fit", "{}/one-size.csv", "--law", "additive"], ["additive", "1"]),
        (["plan", "{}/one-size.csv", "--budget", "-1flops"], ["budget", "-1flops"]),
        (["cost", "{}/object.yaml"], ["object.yaml", "line 1"]),
        (["list", "task"], ["did you mean 'tasks'"]),
        (["eval", "{}"], ["no adapter"]),
    ],
)
def test_a_mistake_is_one_line_and_status_2(files, monkeypatch, capsys, words, expected):
    status, out, err = run(monkeypatch, capsys, *(word.replace("{}", str(files), 1) if "{}" in word else word for word in words))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1, err
    for part in expected:
        assert part in err


def test_cost_json_has_the_promised_keys(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "cost", "model=nano-55k", "batch=2", "length=64", "--json")
    answer = json.loads(out)
    assert status == 0
    assert {"trainable_parameters", "all_parameters", "flops", "peak_memory_bytes"} <= answer.keys()
    assert answer["flops"]["total"] == pytest.approx(
        sum(answer["flops"][phase] for phase in ("forward", "backward_inputs", "backward_weights"))
    )


def test_help_is_quick_and_needs_no_torch():
    code = "import sys; from isolora.cli import app; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "from isolora.cli import main; main()", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.5  # 0.5 s is the promise on an idle machine; tests share theirs
