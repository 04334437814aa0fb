"""The example package: every kind of plug-in from outside the tree, in process, and installed into an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from functools import partial
from importlib import util
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import contracts
import pytest
import torch
from person import run

from isolora import data_cards, registry, table
from isolora.evaluation import evaluate
from isolora.imports import import_runs
from isolora.store import Store

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "examples" / "plugin"
PROJECT = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS: dict[str, dict[str, str]] = PROJECT["entry-points"]
PLURALS = {"data_card": "data"}
KINDS = list(registry.FOLDERS)


def points(group: str) -> list[EntryPoint]:
    """What `entry_points` gives once the package is installed."""
    made = [EntryPoint(name, value, group) for name, value in GROUPS.get(group, {}).items()]
    for point in made:
        vars(point)["dist"] = SimpleNamespace(name=PROJECT["name"])
    return made


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as if it were installed."""
    monkeypatch.syspath_prepend(str(PLUGIN / "src"))
    monkeypatch.setattr(registry, "entry_points", lambda group: points(group))
    with contracts.forgotten():
        yield
    for module in [name for name in sys.modules if name.split(".")[0] == "isolora_example"]:
        del sys.modules[module]


def test_there_is_one_of_each_kind() -> None:
    assert sorted(GROUPS) == sorted(f"isolora.{kind}s" for kind in KINDS)
    assert all(len(named) == 1 for named in GROUPS.values())


@pytest.mark.usefixtures("installed")
def test_names_and_settings() -> None:
    for kind in KINDS:
        [name] = GROUPS[f"isolora.{kind}s"]
        assert registry.package_of(kind, name) == "isolora-example"
        contracts.knows_its_name(kind, name)
    contracts.settings_are_described("task", "multi-label")
    contracts.settings_are_described("method", "gated-lora")


@pytest.mark.usefixtures("installed")
def test_listed_with_their_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        [name] = GROUPS[f"isolora.{kind}s"]
        listed = PLURALS.get(kind, f"{kind}s")
        status, out, _ = run(monkeypatch, capsys, "list", listed)
        assert status == 0
        assert next(line for line in out.splitlines() if line.startswith(name)).endswith("(package isolora-example)")
        answer = json.loads(run(monkeypatch, capsys, "list", listed, "--json")[1])
        assert name in answer[listed]
        assert answer["packages"] == {name: "isolora-example"}


@pytest.mark.usefixtures("installed")
def test_the_task_keeps_its_contract(tmp_path: Path) -> None:
    contracts.a_task("multi-label", tmp_path)


@pytest.mark.usefixtures("installed")
def test_the_method_keeps_its_contract(tmp_path: Path) -> None:
    contracts.a_method("gated-lora", tmp_path)
    contracts.a_stackable_method("gated-lora")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("term", ["", "+capacity", "+slope"])
def test_the_law_keeps_its_contract(term: str) -> None:
    contracts.a_law(f"stretched{term}")


@pytest.mark.usefixtures("installed")
def test_the_importer_keeps_its_contract(tmp_path: Path) -> None:
    contracts.an_importer("lightning", tmp_path)
    version = tmp_path / "lightning_logs" / "version_0"
    version.mkdir(parents=True)
    (version / "hparams.yaml").write_text("lr: 0.002\nmodel_name: acme/base\n")
    (version / "metrics.csv").write_text("step,val_loss,train_tokens\n10,3.5,1000\n20,,1500\n20,3.0,\n")
    found = import_runs(tmp_path, "lightning", tmp_path / "out.csv")
    assert (found.runs, found.points) == (1, 2)
    rows = table.read(tmp_path / "out.csv")
    assert [list(rows[name]) for name in ("loss", "tokens", "learning_rate")] == [[3.5, 3.0], [1000, 1500], [0.002, 0.002]]


@pytest.mark.usefixtures("installed")
def test_the_data_card_keeps_its_contract() -> None:
    contracts.a_data_card("support-tickets")
    assert data_cards.card_of("support-tickets").task["multi-label"]["labels"] == ["account", "billing", "delivery", "quality"]


@pytest.mark.usefixtures("installed")
def test_the_tracker_keeps_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contracts.a_tracker("json-lines", tmp_path, monkeypatch, capsys)
    [file] = (tmp_path / "out" / "trackers").iterdir()
    stored = [point["loss"] for point in Store(tmp_path / "out").points()]
    assert [json.loads(line)["loss"] for line in file.read_text().splitlines()] == [*stored, 1.0]


@pytest.mark.usefixtures("installed")
def test_the_trainer_keeps_its_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    contracts.a_trainer("gentle", tmp_path)


@pytest.mark.usefixtures("installed")
def test_a_run_of_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Priced, trained and measured again by the command line; the labels are learnt."""
    small = ("training.tokens=6000", "training.trainer=native")
    price = json.loads(run(monkeypatch, capsys, "cost", PLUGIN / "run.yaml", *small, "--json")[1])
    out = tmp_path / "out"
    status, said, err = run(monkeypatch, capsys, "train", PLUGIN / "run.yaml", *small, "--out", out, "--json")
    assert status == 0, err
    ended = json.loads(said)
    assert ended["flops"] == pytest.approx(
        price["flops"]["total"] if isinstance(price["flops"], dict) else price["flops"], rel=1e-6
    )
    assert ended["metrics"]["f1_micro"] > 0.5
    monkeypatch.setattr("isolora.evaluation.evaluate", partial(evaluate, repeats=50))  # a thousand take scikit-learn four seconds
    again = json.loads(run(monkeypatch, capsys, "eval", out, "--json")[1])
    assert again["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert again["metrics"] == pytest.approx(ended["metrics"])


@pytest.mark.usefixtures("installed")
def test_an_error_in_its_code_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = registry.load_plug_in("task", "multi-label")
    module = sys.modules[type(task).__module__]
    monkeypatch.setattr(module, "class_scores", lambda model, batch: None)
    words = ("train", PLUGIN / "run.yaml", "training.steps=1", "training.trainer=native", "--out", tmp_path / "out")
    status, out, err = run(monkeypatch, capsys, *words)
    lines = [line for line in err.splitlines() if line.startswith("isolora:") and "are in training too" not in line]
    assert (status, out) == (1, "")
    lines.sort(key=lambda line: "ISOLORA_DEBUG" in line)
    assert lines[0].startswith("isolora: task multi-label (package isolora-example): AttributeError: 'NoneType'")
    assert "multi_label.py:" in lines[0]
    assert "ISOLORA_DEBUG=1" in lines[1]
    assert "Traceback" not in err


def python(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of its own that sees what is installed here, with the package installed into it."""
    if util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed, and a build without it needs the network: pip install hatchling")
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    seen = [str(ROOT / "src"), *(path for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))]
    paths = subprocess.run(
        [python(folder / "venv"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    (Path(paths.stdout.strip()) / "seen.pth").write_text("\n".join(dict.fromkeys(seen)) + "\n")
    shutil.copytree(PLUGIN, folder / "plugin")
    words = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", folder / "plugin")
    subprocess.run([python(folder / "venv"), *words], check=True)
    return folder


@pytest.mark.slow
def test_installed_into_an_environment_of_its_own(environment: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "COVERAGE_PROCESS_START")}
    settings |= {"ISOLORA_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def isolora(*words: object) -> dict[str, Any]:
        call = [python(environment / "venv"), "-c", "from isolora.cli import main; main()", *map(str, words), "--json"]
        ended = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=settings, check=False)
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    for kind in KINDS:
        [name] = GROUPS[f"isolora.{kind}s"]
        assert isolora("list", PLURALS.get(kind, f"{kind}s"))["packages"] == {name: "isolora-example"}
    run_file, study_file = environment / "plugin" / "run.yaml", environment / "plugin" / "study.yaml"
    isolora("cost", run_file)
    ended = isolora("train", run_file, "--out", "out")
    assert ended["metrics"]["f1_micro"] > 0.8
    assert list((tmp_path / "out" / "trackers").glob("*.jsonl"))
    assert isolora("eval", "out")["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert isolora("study", study_file, "--out", "tickets", "--executor", "fresh")["states"] == {"complete": 2}
    fitted = isolora("fit", "tickets", "--law", "stretched")
    assert set(fitted["parameters"]) == {"E", "B", "b", "T"}
