"""Follow three walks through the code: which files a reader enters, in order, and whether the way leads back up.

    python scripts/walks.py            (about a minute)

YAML to adapter: `isolora train`. Tokens to point: from a batch of tokens to the row in the store. Table to report: `isolora fit`,
`plan` and `report` on a finished study. A file counts once, when a function of it is first called; "back up" counts calls that go
from a folder to one above it (as tests/test_floors.py orders them), observers of the loop aside.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SOURCE = str(Path(__file__).resolve().parents[1] / "src" / "isolora") + os.sep
RUN = [
    "model=nano-55k",
    "data.train_examples=100",
    "data.eval_examples=10",
    "data.max_length=64",
    "training.tokens=3000",
    "training.batch_tokens=512",
    "training.evaluate_from=1000",
]
STUDY = """
name: walk
base:
  data: {source: debian-descriptions, train_examples: 200, eval_examples: 10, max_length: 64}
  training: {tokens: 6000, batch_tokens: 512, evaluate_from: 500, evaluate_ratio: 1.4142136}
grid: {model: [nano-55k, nano-150k, nano-440k], method.rank: [4]}
"""


@contextmanager
def entered(files: list[str]) -> Any:
    """Adds the files whose functions are called, each once, in the order of their first call."""

    def watch(frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(SOURCE) and frame.f_code.co_name != "<module>":
            file = name.removeprefix(SOURCE)
            if file not in files:
                files.append(file)

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)


def walk(title: str, act: Callable[[], Any]) -> None:
    files: list[str] = []
    with entered(files):
        act()
    print(f"{title}: {len(files)} files")
    print("   ", " > ".join(files))


def main() -> None:
    import isolora
    from isolora.runs.workspace import Workspace
    from isolora.training.checkpoint import Checkpointer
    from isolora.training.loop import Loop
    from isolora.training.recorder import Recorder
    from isolora.training.training_run import loaded_stack

    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        isolora.train(isolora.load_run(None, RUN), folder / "warm", quiet=True)  # imports and caches are not part of a walk
        walk("YAML to adapter", lambda: isolora.train(isolora.load_run(None, RUN), folder / "run", quiet=True))
        config, store = isolora.load_run(None, RUN), isolora.Store(folder / "points")
        with loaded_stack([config], ["run"], Workspace()) as (stack, evaluator, _):
            loop = Loop(stack, evaluator, Checkpointer(folder / "aside", 1e9), [Recorder(store, "train", 0)])
            walk("tokens to point", loop.run)
        (folder / "study.yaml").write_text(STUDY)
        isolora.run_study(isolora.load_study(folder / "study.yaml"), folder / "study", quiet=True)

        def report() -> None:
            table = isolora.read(folder / "study")
            law = isolora.fit_law(table)
            advice = isolora.recommend(law, table, "3e10flops")
            isolora.write_report(folder / "study", table, law, folder / "report.html", advice)

        report()  # here too the first one brings in imports and caches
        walk("table to report", report)


if __name__ == "__main__":
    main()
