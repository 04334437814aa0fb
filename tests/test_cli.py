"""The command line: one line and exit status 2 for what a person got wrong, one JSON object for who asks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from person import run

import isolora
from isolora.cli.fits import kept_adapter
from isolora.plan import NoRecommendation
from isolora.store import Store

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
    (tmp_path / "sizeless.csv").write_text(
        "model,tokens,loss\n" + "".join(f"{'ab'[k % 2]},{2**k},{5 - k / 10}\n" for k in range(9))
    )
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
        (["plan", "{}/one-size.csv", "--budget", "20usd"], ["20usd", "--price-per-hour"]),
        (["plan", "{}/one-size.csv"], ["exactly one of --budget", "--reach"]),
        (["plan", "{}/one-size.csv", "--reach", "loss"], ["reach 'loss'", "loss=2.1"]),
        (["plan", "{}/one-size.csv", "--budget", "1e9flops", "--serve", "many"], ["serve 'many'", "1e9tokens"]),
        (["fit", "{}/one-size.csv", "--method", "lora"], ["--method: ", "one-size.csv has no column of methods (columns: "]),
        (["fit", "{}/sizeless.csv"], ["2 models (a, b)", "--map n=COLUMN"]),
        (["predict", "{}/one-size.csv", "--at", "tokns=5"], ["unknown key of --at 'tokns'", "did you mean 'tokens'"]),
        (["predict", "{}/one-size.csv", "--at", "n=5"], ["reads d (tokens)"]),
        (["predict", "{}/one-size.csv", "--at", "n=small,d=5"], ["body_parameters", "'small'"]),
        (["predict", "{}/one-size.csv", "--at", "d=-5"], ["places need d above 0"]),
        (["cost", "{}/object.yaml"], ["object.yaml", "line 1"]),
        (["list", "task"], ["did you mean 'tasks'"]),
        (["pln"], ["No such command 'pln'. Did you mean 'plan'? (see isolora --help)"]),
        (["fit", "x.csv", "--bootstrp", "5"], ["No such option: --bootstrp", "--bootstrap", "(see isolora fit --help)"]),
        (["fit", "x.csv", "--bootstrap", "-1"], ["'--bootstrap'", "greater than or equal to 0"]),
        (["fit"], ["Missing argument", "(see isolora fit --help)"]),
        (["fit", "x.csv", "y.csv"], ["unexpected extra argument", "y.csv"]),
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


def test_predict_at_a_table_and_at_words_and_from_a_written_fit(files, monkeypatch, capsys):
    """The three ways to ask give the same answer, each in the promised form."""
    source, places, written = files / "one-size.csv", files / "places.csv", files / "fit.json"
    places.write_text("D,N\n2M,1k\n4M,1k\n")
    status, out, _ = run(monkeypatch, capsys, "predict", str(source), "--at", str(places), "--bootstrap", "50", "--json")
    answer = json.loads(out)
    assert status == 0
    assert {"points", "law", "warnings"} <= answer.keys()
    assert len(answer["points"]) == 2
    for point in answer["points"]:
        assert point["interval"][0] < point["predicted"] < point["interval"][1]
    assert "the law rests on one trajectory: how much another run would differ is not known" in answer["warnings"]
    status, out, _ = run(monkeypatch, capsys, "fit", str(source), "--bootstrap", "50", "--json")
    written.write_text(out)
    status, out, _ = run(monkeypatch, capsys, "predict", str(written), "--at", "d=2e6", "--at", "n=1000", "--json")
    again = json.loads(out)["points"][0]
    assert again["predicted"] == pytest.approx(answer["points"][0]["predicted"])
    assert again["interval"] == pytest.approx(answer["points"][0]["interval"])


def test_a_refused_plan_ends_with_status_2_and_still_answers(files, monkeypatch, capsys):
    status, out, said = run(monkeypatch, capsys, "plan", str(files / "one-size.csv"), "--budget", "1e3flops", "--json")
    answer = json.loads(out)
    assert status == 2
    assert said.count("\n") == 1
    assert answer["reason"] in said
    assert answer["recommendation"] is None
    assert "the budget buys less than the fewest tokens measured (1,024)" in answer["reason"]


def test_help_is_quick_and_needs_no_torch():
    code = "import sys; from isolora.cli import app; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "from isolora.cli import main; main()", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.5  # 0.5 s is the promise on an idle machine; tests share theirs


def test_version_and_help(monkeypatch, capsys):
    assert run(monkeypatch, capsys, "--version") == (0, f"isolora {isolora.__version__}\n", "")
    status, out, err = run(monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert "Usage: isolora [OPTIONS] COMMAND" in err


def test_completion_knows_verbs_and_options(tmp_path):
    def completed(words, place):
        asked = {"_ISOLORA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        code = "from isolora.cli import main; main()"
        return subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True).stdout.split()

    assert completed("isolora pl", 1) == ["plan"]
    assert {"--budget", "--bootstrap"} <= set(completed("isolora plan --b", 2))


def test_looking_at_a_study_needs_no_torch(tmp_path):
    Store(tmp_path)
    code = "import sys; from isolora.study.status import status; status(sys.argv[1]); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_a_refusal_names_the_adapter_that_was_measured(tmp_path: Path) -> None:
    refusal = NoRecommendation("why", {"run": "abc"})
    assert kept_adapter(tmp_path, refusal) == ""
    (tmp_path / "adapters" / "abc").mkdir(parents=True)
    assert kept_adapter(tmp_path, refusal) == f"\n  its adapter: {tmp_path / 'adapters' / 'abc'}"
    assert kept_adapter(tmp_path, NoRecommendation("why")) == ""
