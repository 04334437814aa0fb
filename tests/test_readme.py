"""What the README shows is what works: its Python example runs as printed, on a smaller study."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STUDY = {
    "name": "small",
    "base": {
        "data": {"train_examples": 400, "eval_examples": 8},
        "training": {"tokens": 2600, "batch_tokens": 256, "evaluate_from": 300, "evaluate_ratio": 1.5},
    },
    "grid": {"model": ["nano-55k", "nano-150k", "nano-440k"], "method.rank": [4, 16], "training.learning_rate": [5.0e-3]},
}
RUN = {"model": "nano-55k", "data": {"train_examples": 200, "eval_examples": 8}, "training": {"tokens": 1000}}


def example() -> str:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "study.yaml").write_text(yaml.safe_dump(STUDY))
    (tmp_path / "examples" / "lora.yaml").write_text(yaml.safe_dump(RUN))
    monkeypatch.chdir(tmp_path)
    within_reach = example().replace("5e12flops", "2e10flops")  # the small study's runs end at 5e9 FLOPs
    exec(compile(within_reach, "README.md", "exec"), {"__name__": "readme"})
    assert "train nano-" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["study.yaml", "lora.yaml"])
def test_the_example_files_are_valid(name: str) -> None:
    from isolora import load_run, load_study

    assert (load_study if name == "study.yaml" else load_run)(ROOT / "examples" / name)


def test_the_picture_is_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / path).is_file()


def test_the_table_of_reliability_is_what_was_measured() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "reliability.json").read_text())["measured"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, row in measured.items():
        number, words = name.split(" ", 1)
        assert f"| {number} | {words} | {row['tried']} | {row['passed']} | {row['seconds']:.0f} |" in readme
