"""Tables of losses: CSV, TSV, JSON, JSON Lines, Parquet and other tools' files, with cells, names, types and bytes changed at
random, then fitted, predicted from, planned with, reported and imported."""

from __future__ import annotations

import csv
import io
import json
import logging
import sqlite3
import tempfile
import warnings
from contextlib import closing
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_data import broken, cast

from isolora import laws
from isolora.cli import fits
from isolora.cost.accelerators import Place
from isolora.cost.table_times import timed_on
from isolora.fit import fit, places
from isolora.imports import import_runs
from isolora.plan import asked_limits, asked_plan, parse_budget
from isolora.report import report
from isolora.table import Table, from_columns

Row = dict[str, Any]
NASTY: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**63,
        -(2**63) - 1,
        10**400,
        0.0,
        -0.5,
        1e-320,
        1e308,
        float("nan"),
        float("inf"),
        float("-inf"),
    ),
    *(
        "",
        " ",
        "nan",
        "NaN",
        "inf",
        "-",
        "1.0B",
        "350M",
        "1e9",
        "1e999",
        "1,000,000",
        "1,5",
        "1.2.3",
        "0x10",
        "９",
        "²",
        "1_000",
        "é東",
    ),
    *(
        "\x00",
        "\ud800",
        "a\nb",
        '"',
        "'",
        ",",
        ";",
        "=1+1",
        "<script>alert(1)</script>",
        "{{ x }}",
        "{x}",
        "%s",
        "x" * 5000,
        "true",
    ),
    *([], [1], {}, {"a": 1}, "2024-01-01", b"bytes".hex()),
]
NAMES: list[str] = [
    *(
        "loss",
        "eval_loss",
        "val/loss",
        "n",
        "N",
        "d",
        "D",
        "p",
        "u",
        "c",
        "C",
        "params",
        "Num Params",
        "tokens",
        "compute",
        "lr",
        "r",
    ),
    *(
        "run",
        "model",
        "method",
        "state",
        "metrics",
        "config",
        "stage",
        "seconds",
        "rank",
        "seed",
        "",
        " ",
        "m:lora",
        "isolora:row",
        "é",
    ),
    *(
        "learning_rate",
        "passes",
        "unique_examples",
        "accuracy",
        "f1",
        "forgetting",
        "step",
        "peak_memory_bytes",
        "x" * 300,
        "a,b",
        "a\nb",
    ),
]
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "eval_loss", "val/loss"),
    "body_parameters": ("n", "N", "body_parameters", "params"),
    "tokens": ("d", "D", "tokens", "num_tokens"),
    "flops": ("c", "flops", "compute"),
    "trainable_parameters": ("p", "trainable_parameters"),
    "unique_tokens": ("u", "unique_tokens"),
}
ENDINGS = ((".csv", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".parquet"), (".xlsx", ".JSON", ""))
BUDGETS = (("1e12flops", "1e15flops", "2h"), ("1e40flops", "1s", "20usd", "1e-3s", "-1h", "h", "1e400flops", "5apples", ""))
NOWHERE = (None, None)
GOALS = (("loss=2.1", "loss=1.9"), ("loss=0", "accuracy=0.9", "loss=nan", "loss", "f1=2", "loss=1e-9"))
TARGETS = (("loss",), ("accuracy", "f1", "forgotten", "nothing"))
AT = (
    ("n=1e8,d=1e9", "n=1e6,d=1e7,p=1e4,u=1e6,c=6e13,method=lora,lr=1e-3"),
    ("n=1e8", "d=1e6", "n=0", "n=-1,d=1", "n=1e400,d=1", "x=1", "n", "n=nan,d=1", "n=a", "n=1e8,d=1e9,method=odd"),
)
"""Of each option: what is sound, and what is odd."""


def pick(random: Random, choices: tuple[tuple[Any, ...], tuple[Any, ...]]) -> Any:
    sound, odd = choices
    return random.choice(odd if random.random() < 0.06 else sound)


def attempt(random: Random, folder: Path) -> None:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = random.random()
        if part < 0.4:
            (imported if part < 0.35 else from_a_written_fit)(random, folder)
            return
        source = written(random, folder, rows(random))
        table = fits.read_points(source, mapped(random), pick(random, ((None,), ("lora", "nope"))))
        used(random, table, source, folder)


def from_a_written_fit(random: Random, folder: Path) -> None:
    """The answer of `fit --json`, spoiled, as the source of a prediction."""
    path = put(random, folder / "fit.json", within(json.loads(sound_fit()), random, random.choice((0.0, 0.002, 0.02))))
    fitted = fits.written_fit(path)
    if fitted is not None:
        str(fitted)
        json.dumps(places.predicted(fitted, places.asked([pick(random, AT)])))


@cache
def sound_fit() -> str:
    """A fit of three sizes, as JSON text."""
    named = {name: name for name in OTHER_NAMES}
    found = [row(named, n, 10 ** (4 + k / 3), "lora", 0.0) for n in (1e5, 1e6, 1e7) for k in range(8)]
    return fit(from_columns({name: [one[name] for one in found] for name in found[0]}, {}), bootstrap=8).dumps()


def mapped(random: Random) -> list[str] | None:
    words = ("n=params", "d=flops/(6n)", "loss=val/loss", "x=loss", "n=", "d=", "loss=accuracy", "run=model", "n=loss", "c=c")
    return [random.choice(words)] if random.random() < 0.1 else None


def used(random: Random, table: Table, source: Path, folder: Path) -> None:
    """One verb on a table, with options of which some are nonsense."""
    law = pick(random, (("auto", "auto", "auto", "additive"), (*laws.law_names(), "nope")))
    how: dict[str, Any] = {"law": law, "bootstrap": random.choice((0, 1, 8)), "target": pick(random, TARGETS)}
    verb = random.choice(("fit", "fit", "predict", "predict", "plan", "plan", "reach", "report"))
    if verb in ("fit", "predict"):
        fitted = fit(table, holdout=random.choice(("largest", "largest", "none")), **how)
        json.dumps(fitted.to_json())
        str(fitted)
        if verb == "predict":
            json.dumps(places.predicted(fitted, places.asked([str(source) if random.random() < 0.1 else pick(random, AT)])))
        return
    limits = asked_limits(
        examples=pick(random, ((None,), (1, 1000))),
        memory=pick(random, ((None,), ("16GB", "1b", "x"))),
        forget_at_most=pick(random, ((None,), (0.1,))),
        serve=pick(random, ((None,), ("1e9tokens", "x"))),
    )
    place = Place(*pick(random, ((NOWHERE, NOWHERE, ("H100", 0.4)), (("H100", None),))))
    price = pick(random, ((None,), (2.0, 0.0)))
    if verb == "report":
        given = pick(random, ((None,), BUDGETS[1]))
        report(
            source,
            table,
            out=folder / "page.html",
            budget=parse_budget(given, price) if given else None,
            limits=limits,
            place=place,
            **how,
        )
        return
    asked = (pick(random, BUDGETS), None) if verb == "plan" else (None, pick(random, GOALS))
    found = asked_plan(timed_on(table, source, place), *asked, price, limits, **how)
    json.dumps(found.to_json())
    str(found)


def rows(random: Random) -> list[Row]:
    """Trajectories of a few sizes, methods and seeds on a law with noise, of which some are spoiled."""
    named = {name: random.choice(others) for name, others in OTHER_NAMES.items()}
    sizes = [10 ** random.uniform(4, 8) for _ in range(random.choice((1, 3, 4, 5)))]
    methods = random.sample(("lora", "full", "prefix"), random.choice((1, 1, 1, 2, 3)))
    noise, many = random.choice((0.0, 0.002, 0.05)), random.choice((1, 6, 6, 10))
    found = [
        row(named, n, 10 ** (4 + 2.5 * k / many), method, random.gauss(0, noise))
        for n in sizes
        for method in methods
        for k in range(many)
    ]
    kept = [name for name in found[0] if (name in named.values() and random.random() < 0.97) or random.random() < 0.7]
    found = [{name: one[name] for name in one if name in kept} for one in found][: random.choice((0, 2, *[500] * 12))]
    chance = random.choice((0.0, 0.0, 0.002, 0.02, 0.2))
    return [spoiled(one, random, chance) for one in found]


def row(named: dict[str, str], n: float, tokens: float, method: str, noise: float) -> Row:
    loss = (1.7 + 400 / n**0.34 + 40 / tokens**0.28) * (1 + noise)
    numbers = {
        "loss": loss,
        "body_parameters": n,
        "tokens": tokens,
        "flops": 6 * n * tokens,
        "trainable_parameters": n / 50,
        "unique_tokens": min(tokens, 1e6),
    }
    texts = {"run": f"{n:.3g}-{method}", "model": f"base-{n:.3g}", "method": method, "learning_rate": 1e-3, "seed": 0, "rank": 8}
    return {named[name]: value for name, value in numbers.items()} | texts | {"seconds": tokens / 100, "accuracy": 1 / (1 + loss)}


def spoiled(one: Row, random: Random, chance: float) -> Row:
    found = {name: random.choice(NASTY) if random.random() < chance else value for name, value in one.items()}
    if random.random() < chance:
        found[random.choice(NAMES)] = random.choice(NASTY)
    if random.random() < chance and found:
        del found[random.choice(list(found))]
    return found


def written(random: Random, folder: Path, found: list[Row]) -> Path:
    path = folder / f"table{pick(random, ENDINGS)}"
    if random.random() < 0.05:
        found = [{random.choice(NAMES) if random.random() < 0.3 else name: value for name, value in one.items()} for one in found]
    path.write_bytes(broken(encoded(random, path.suffix, found), random))
    return path


def encoded(random: Random, ending: str, found: list[Row]) -> bytes:
    if ending == ".parquet":
        return parquet(random, found)
    if ending in (".csv", ".tsv", ".xlsx"):
        return separated(random, found).encode(random.choice(("utf-8",) * 20 + ("utf-8-sig", "utf-16")), "surrogatepass")
    shown = random.random() < 0.5
    if ending == ".jsonl":
        return "".join(json.dumps(one, ensure_ascii=shown) + "\n" for one in found).encode("utf-8", "surrogatepass")
    columns = {name: [one.get(name) for one in found] for one in found for name in one}
    odd = (columns, {"points": found}, {**columns, "odd": [1]}, 3, None, {"law": "additive", "parameters": {}, "draws": []})
    given = found if random.random() < 0.6 else columns if random.random() < 0.7 else random.choice(odd)
    return json.dumps(given, ensure_ascii=shown).encode("utf-8", "surrogatepass")


def separated(random: Random, found: list[Row]) -> str:
    names, text = list(dict.fromkeys(name for one in found for name in one)), io.StringIO()
    writer = csv.writer(text, delimiter=random.choice(",,,,,;;\t\t|"))
    writer.writerow(names if random.random() < 0.95 else [*names, *names[:2]])
    writer.writerows([[one.get(name, "") for name in names] for one in found])
    return text.getvalue()


def parquet(random: Random, found: list[Row]) -> bytes:
    """Columns of several types; a column that Arrow does not take becomes text."""
    columns = {}
    for name in dict.fromkeys(name for one in found for name in one):
        values = [one.get(name) for one in found]
        try:
            columns[name] = cast(pa.array(values), random) if random.random() < 0.1 else pa.array(values)
        except (pa.ArrowException, ValueError, OverflowError, TypeError):
            columns[name] = pa.array([str(value).encode("utf-8", "replace").decode() for value in values])
    sink = io.BytesIO()
    try:
        pq.write_table(pa.table({name.encode("utf-8", "replace").decode(): column for name, column in columns.items()}), sink)
    except (pa.ArrowException, ValueError):
        return b"PAR1"
    return sink.getvalue()


def imported(random: Random, folder: Path) -> None:
    """Another tool's files, spoiled, as a table; where one comes of it, a verb on it."""
    tool = random.choice(("wandb", "trainer", "peft", "mlflow", "trackio", "tensorboard", "optuna"))
    source = LOGS[tool](random, folder / "logs")
    if random.random() < 0.02:
        tool = random.choice(("wandb", "trainer", "peft", "nope", ""))
    out = folder / f"table{pick(random, (('.csv', '.parquet', '.jsonl'), ('.txt', '')))}"
    str(import_runs(source, tool, out))
    used(random, fits.read_points(out, mapped(random), None), out, folder)


def logged(random: Random, chance: float) -> list[Row]:
    """A run's history: evaluations with tokens and FLOPs, of which some are spoiled."""
    n = 10 ** random.uniform(5, 8)
    found = [
        {
            "_step": step,
            "step": step,
            "eval/loss": 1.7 + 400 / n**0.34 + 40 / (1000.0 * step) ** 0.28,
            "train/num_input_tokens_seen": 1000 * step,
            "total_flos": 6000 * n * step,
            "_runtime": step / 7,
        }
        for step in range(10, 100, random.choice((10, 30)))
    ]
    return [spoiled(one, random, chance) for one in found]


def settings(random: Random, chance: float) -> Row:
    given = {"model_name_or_path": "acme/base", "learning_rate": 2e-4, "lora_r": 8, "peft_type": "LORA", "n_params": 1e6}
    return spoiled(given, random, chance)


def put(random: Random, path: Path, given: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = given if isinstance(given, bytes) else json.dumps(given).encode()
    path.write_bytes(broken(text, random))
    return path


def chances(random: Random) -> float:
    return random.choice((0.0, 0.0, 0.01, 0.05, 0.3))


def wandb(random: Random, folder: Path) -> Path:
    chance = chances(random)
    runs = [{"name": f"r{k}", "config": settings(random, chance), "history": logged(random, chance)} for k in range(3)]
    kind = random.choice(("runs", "runs", "lines", "csv", "history"))
    if kind == "runs":
        return put(random, folder / "runs.json", within(runs, random, chance / 4))
    if kind == "lines":
        lines = "\n".join(json.dumps(within(run, random, chance / 4)) for run in runs)
        return put(random, folder / "runs.jsonl", lines.encode())
    if kind == "history":
        return put(random, folder / "history.json", logged(random, chance))
    flat = [{"Name": run["name"], **run["config"], **one} for run in runs for one in run["history"]]
    return put(random, folder / "runs.csv", separated(random, flat).encode("utf-8", "surrogatepass"))


def within(value: Any, random: Random, chance: float) -> Any:
    """A value, or a part of it, that is another one."""
    if random.random() < chance:
        return random.choice(NASTY)
    if isinstance(value, dict):
        return {name: within(part, random, chance) for name, part in value.items()}
    return [within(part, random, chance) for part in value] if isinstance(value, list) else value


def trainer(random: Random, folder: Path) -> Path:
    chance = chances(random)
    for k in range(random.choice((1, 2))):
        history = [{name.replace("eval/", "eval_"): value for name, value in one.items()} for one in logged(random, chance)]
        state = {"global_step": 100, "log_history": history, "total_flos": 1e12, "num_input_tokens_seen": 100_000}
        put(random, folder / f"run{k}" / "trainer_state.json", within(state, random, chance / 4))
        if random.random() < 0.5:
            put(random, folder / f"run{k}" / "adapter_config.json", within({"peft_type": "LORA", "r": 8}, random, chance))
    return folder


def peft(random: Random, folder: Path) -> Path:
    chance = chances(random)
    for k in range(2):
        metrics = [
            {"step": step, "train loss": 1 + 30 / step, "valid accuracy": 0.3, "train samples": step * 4, "train time": step / 5}
            for step in range(50, 400, 50)
        ]
        metrics[-1] |= {"train total tokens": 10**6, "test accuracy": 0.4}
        given = {
            "run_info": {"peft_config": {"peft_type": "LORA", "r": 8 * (k + 1)}, "train_config": {"model_id": "acme/base"}},
            "train_info": {"metrics": metrics, "num_trainable_params": 10**5, "accelerator_memory_max": 10**9},
        }
        put(random, folder / f"r{k}.json", within(given, random, chance / 4))
    return folder


def mlflow(random: Random, folder: Path) -> Path:
    chance = chances(random)
    for k in range(2):
        run = folder / "mlruns" / "0" / f"run{k}"
        put(random, run / "meta.yaml", within({"run_name": f"r{k}", "lifecycle_stage": "active"}, random, chance))
        for name, value in settings(random, chance).items():
            put(random, run / "params" / safe(name), str(value).encode("utf-8", "replace"))
        lines: dict[str, str] = {}
        for one in logged(random, chance):
            for name, value in one.items():
                lines[name] = lines.get(name, "") + f"1700000000000 {value} {one.get('step', '')}\n"
        for name, text in lines.items():
            put(random, run / "metrics" / safe(name), text.encode("utf-8", "replace"))
    return folder


def safe(name: str) -> str:
    """A name that a file may have."""
    return name.replace("\x00", "").replace("\n", " ").strip("./ ")[:100].encode("utf-8", "replace").decode() or "x"


def trackio(random: Random, folder: Path) -> Path:
    chance, path = chances(random), folder / "project.db"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_name TEXT, step INTEGER, metrics TEXT)")
        database.execute("CREATE TABLE configs (id INTEGER PRIMARY KEY, run_name TEXT, config TEXT)")
        for k in range(2):
            database.execute(
                "INSERT INTO configs (run_name, config) VALUES (?, ?)", (f"r{k}", json.dumps(settings(random, chance)))
            )
            for one in logged(random, chance):
                values = [f"r{k}", one.get("step"), json.dumps(within(one, random, chance / 4))]
                values = [
                    random.choice((None, "x", -1, b"\xff", "[")) if random.random() < chance / 4 else value for value in values
                ]
                values = [json.dumps(value) if isinstance(value, list | dict) else value for value in values]
                values = [str(value) if isinstance(value, int) and abs(value) >= 2**63 else value for value in values]
                values = [value.encode("utf-8", "replace") if isinstance(value, str) else value for value in values]
                database.execute("INSERT INTO metrics (run_name, step, metrics) VALUES (?, ?, ?)", values)
    return put(random, path, path.read_bytes())


def tensorboard(random: Random, folder: Path) -> Path:
    put(random, folder / "run" / "events.out.tfevents.1", events())
    if random.random() < 0.3:
        put(random, folder / "run" / "hparams.yml", settings(random, 0.2))
    return folder


def optuna(random: Random, folder: Path) -> Path:
    kind = random.choice(("db", "log"))
    return put(random, folder / f"study.{kind}", storages()[kind])


@cache
def events() -> bytes:
    """An event file of one run."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    sink = io.BytesIO()
    writer = RecordWriter(sink)
    for step in range(10, 100, 10):
        values = {"eval/loss": 2 + 30 / step, "train/num_input_tokens_seen": 1000 * step}
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        writer.write(Event(wall_time=1e9 + step, step=step, summary=summary).SerializeToString())
    return sink.getvalue()


@cache
def storages() -> dict[str, bytes]:
    """A study's storage of each kind."""
    import optuna as library
    from optuna.storages.journal import JournalFileBackend

    library.logging.set_verbosity(library.logging.ERROR)
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for kind in ("db", "log"):
            path = Path(place) / f"study.{kind}"
            storage = f"sqlite:///{path}" if kind == "db" else library.storages.JournalStorage(JournalFileBackend(str(path)))
            study = library.create_study(storage=storage, study_name="s")
            for k in range(4):
                trial = study.ask()
                trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
                for step in range(10, 60, 10):
                    trial.report(2 + k / 10 + 30 / step, step)
                study.tell(trial, 2 + k / 10)
            found[kind] = path.read_bytes()
    return found


LOGS = {
    "wandb": wandb,
    "trainer": trainer,
    "peft": peft,
    "mlflow": mlflow,
    "trackio": trackio,
    "tensorboard": tensorboard,
    "optuna": optuna,
}
