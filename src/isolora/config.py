"""What a run and a study are: typed settings read from YAML and `key=value` words, with one-line errors.

Field descriptions are written once, here; help texts and docs/reference.md are generated from them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from isolora import registry
from isolora.data_cards import card_of
from isolora.errors import ConfigError, DataError, unknown
from isolora.metrics.direction import larger_is_better

BUDGETS = ("tokens", "steps", "epochs", "flops")
PLUG_INS = ("task", "method")
SIZES = {"small": 0.01, "medium": 0.1, "large": 1.0}
"""Shares of the training examples that there are."""


class Settings(BaseModel):
    """A frozen group of fields that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any, info: ValidationInfo) -> Any:
        """`steps: yes` is a slip, not one step."""
        if isinstance(given, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"expected no yes or no (got {given})")
        return given


class MixConfig(Settings):
    """Another source, mixed into the training examples."""

    source: str = Field(description="packaged name, local file or glob, or hub id")
    share: float = Field(gt=0, lt=1, description="share of the training examples that come from this source")
    columns: dict[str, str] = Field({}, description="column the task asks for -> column of this source, where they differ")
    text_field: str | None = Field(None, description="column that holds the text, when it is not called text")
    task: dict[str, Any] = Field({}, description="settings of the task that this source needs otherwise, such as its template")
    name: str | None = Field(None, description="what its scores are called; the last part of source when absent")

    @property
    def called(self) -> str:
        return self.name or Path(self.source).name


class DataConfig(Settings):
    source: str = Field("debian-descriptions", description="packaged name, local file or glob, or hub id")
    train_examples: PositiveInt | Literal["small", "medium", "large"] | None = Field(
        None, description="unique training examples: a number, or 1, 10 or 100 % of those there are; all when absent"
    )
    eval_examples: PositiveInt = Field(500, description="held-out examples that the loss is measured on")
    eval_split: Literal["validation", "test"] = Field("validation", description="where the held-out examples come from")
    columns: dict[str, str] = Field({}, description="column the task asks for -> column of this source, where they differ")
    text_field: str | None = Field(None, description="column that holds the text, when it is not called text")
    max_length: PositiveInt | None = Field(None, description="longest example in tokens; the model's positions when absent")
    seed: NonNegativeInt = Field(0, description="which examples are drawn; smaller draws are subsets of larger ones")
    mix: tuple[MixConfig, ...] = Field((), description="other sources mixed into training: a list of source and share")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="what a row that cannot be used does: end the run, or be left out"
    )

    streaming: bool = Field(
        False,
        description="pass over the source once and hold only the rows drawn, for what does not fit in memory; needs "
        "train_examples as a number, and draws other examples than without",
    )

    @field_validator("train_examples", mode="before")
    @classmethod
    def _sizes_have_names(cls, given: Any) -> Any:
        if isinstance(given, str) and given not in SIZES and not given.isdecimal():
            raise ValueError(f"{unknown('size', given, SIZES)}, or a whole number")
        return given

    @field_validator("mix")
    @classmethod
    def _shares_leave_room(cls, mix: tuple[MixConfig, ...]) -> tuple[MixConfig, ...]:
        if sum(part.share for part in mix) >= 1:
            raise ValueError("the shares must leave some of the examples to source")
        if len({part.called for part in mix}) < len(mix):
            raise ValueError(f"two sources have the same name (names: {', '.join(part.called for part in mix)})")
        return mix

    @model_validator(mode="after")
    def _streams_are_measured(self) -> DataConfig:
        if self.streaming and not isinstance(self.train_examples, int):
            raise ValueError(
                f"data.train_examples: with streaming, a whole number says how many are held (got {self.train_examples})"
            )
        return self

    def drawn_examples(self, available: int) -> int:
        """How many training examples are drawn of those there are. Raises DataError where more are asked for."""
        if isinstance(self.train_examples, str):
            return max(1, round(SIZES[self.train_examples] * available))
        if self.train_examples is not None and self.train_examples > available:
            raise DataError(f"data.train_examples: {self.train_examples} asked for, {self.source} has {available}")
        return self.train_examples or available

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


class PlugInConfig(BaseModel):
    """`name` picks a plug-in; the other fields are its own and are checked by it. A name alone may stand for the whole."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: ClassVar[str]
    name: str

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Own fields validated and completed by the plug-in, so that defaults are part of a run's identity."""
        if isinstance(given, str):
            given = {"name": given}
        if not isinstance(given, Mapping):
            return given
        own = {key: value for key, value in given.items() if key != "name"}
        name = given.get("name", cls.model_fields["name"].default)
        settings = parse(registry.load(cls.kind, str(name)).Settings, own, where=cls.kind)
        return {"name": name, **settings.model_dump()}

    def fields(self) -> dict[str, Any]:
        """The plug-in's own fields."""
        return dict(self.model_extra or {})


class MethodConfig(PlugInConfig):
    kind: ClassVar[str] = "method"
    name: str = Field("lora", description="adapter method; see `isolora list methods`")


class TaskConfig(PlugInConfig):
    kind: ClassVar[str] = "task"
    name: str = Field("causal-lm", description="what is learnt; see `isolora list tasks`")


class TrainingConfig(Settings):
    tokens: PositiveFloat | None = Field(None, description="budget in real (non-padding) tokens")
    steps: PositiveInt | None = Field(None, description="budget in optimiser steps")
    epochs: PositiveFloat | None = Field(None, description="budget in passes over the training examples")
    flops: PositiveFloat | None = Field(None, description="budget in training FLOPs")
    trainer: Literal["native", "hf", "sft", "dpo"] = Field(
        "native", description="who drives the steps: our own loop, transformers' Trainer, TRL's SFTTrainer or DPOTrainer"
    )
    learning_rate: PositiveFloat = Field(1e-3, description="peak learning rate (AdamW)")
    head_learning_rate_ratio: PositiveFloat = Field(
        10.0, description="learning rate of a task's new head, which starts from nothing, over the adapter's"
    )
    batch_tokens: PositiveInt = Field(4096, description="padded tokens in one optimiser step, at most")
    accumulation: PositiveInt = Field(1, description="micro-batches that one optimiser step is split into")
    warmup_steps: NonNegativeInt = Field(10, description="steps of linear warm-up")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="what the rate does after warm-up")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled weight decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first-moment decay")
    beta2: float = Field(0.99, ge=0, lt=1, description="AdamW's second-moment decay")
    clip_norm: PositiveFloat | None = Field(1.0, description="largest gradient norm of one member; null switches clipping off")
    averaging: NonNegativeFloat = Field(
        3.0, description="polynomial-decay averaging: newest weights get (a+1)/(step+a); 0 averages all"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision")
    evaluate_from: PositiveFloat = Field(4096, description="tokens at the first evaluation")
    evaluate_ratio: float = Field(2.0, gt=1, description="spacing of evaluations: each at this multiple of the last")
    checkpoint_seconds: PositiveFloat = Field(120, description="longest time between two checkpoints")
    keep_checkpoints: bool = Field(False, description="keep all checkpoints, after the run's end too, for export --checkpoint")

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"exactly one of {', '.join(BUDGETS)} sets the budget; found {found}")
        return self

    @property
    def budget(self) -> tuple[str, float]:
        """The budget's unit and its amount."""
        name = next(name for name in BUDGETS if getattr(self, name) is not None)
        return name, float(getattr(self, name))


class ForgettingConfig(Settings):
    """What is measured beside the task: the loss on texts that the run is not for, before and after."""

    sources: tuple[str, ...] = Field(("general-english",), min_length=1, description="data sets of texts, as in data.source")
    examples: PositiveInt = Field(200, description="held-out texts of each source")


class RunConfig(Settings):
    """One training run: everything that its result depends on."""

    model: str = Field("nano-1m", description="packaged name, local folder, or hub id")
    task: TaskConfig = Field(default_factory=lambda: TaskConfig(name="causal-lm"))
    data: DataConfig = DataConfig()
    method: MethodConfig = Field(default_factory=lambda: MethodConfig(name="lora"))
    training: TrainingConfig = TrainingConfig(tokens=1e6)
    new_tokens: tuple[str, ...] = Field((), description="entries added to the vocabulary, trained and kept with the adapter")
    forgetting: ForgettingConfig | None = Field(
        None, description="measure at every point what is forgotten of other texts; {} takes the defaults"
    )
    seed: NonNegativeInt = Field(0, description="initial adapter weights, data order, dropout")
    trust_remote_code: bool = Field(False, description="run code that a hub repository brings along")

    @model_validator(mode="before")
    @classmethod
    def _as_the_data_needs(cls, given: Any) -> Any:
        """The task with the settings that the card of the data asks for, such as few-nerd's scheme, where none are given."""
        task, data = (given.get(key) for key in ("task", "data")) if isinstance(given, Mapping) else (None, None)
        named = {"name": task} if isinstance(task, str) else task
        if not isinstance(named, Mapping) or not isinstance(data, Mapping):
            return given
        needed = card_of(str(data.get("source"))).task.get(str(named.get("name")), {})
        return {**given, "task": {**needed, **named}}

    def identity(self) -> str:
        """Content hash of all that decides the result: 16 hexadecimal digits, equal for equal runs."""
        # How the documents were come by is seen in them, and a run's name in the store holds their fingerprints too.
        aside = {"training": {"checkpoint_seconds", "keep_checkpoints"}, "data": {"on_error", "streaming"}}
        return content_hash(self.model_dump(exclude=aside))


class TuneConfig(Settings):
    """Every other cell of the grid tries all values of `over` on a small budget; the best one goes on."""

    over: str = Field("training.learning_rate", description="dotted key of the grid that is tuned")
    tokens: PositiveFloat = Field(description="budget of one trial, in tokens")


class RangeConfig(Settings):
    """Numbers from low to high, both included; whole numbers where both are."""

    low: int | float = Field(description="smallest value")
    high: int | float = Field(description="largest value")
    log: bool = Field(False, description="search evenly in the logarithm")

    @model_validator(mode="after")
    def _some_room(self) -> RangeConfig:
        if self.low >= self.high:
            raise ValueError(f"low must be below high (got {self.low} and {self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"log asks for a low above 0 (got {self.low})")
        return self


class SearchConfig(Settings):
    """What Optuna suggests values for, and when it gives a trial up."""

    space: dict[str, RangeConfig | list[Any]] = Field(
        description="dotted key of a run -> a list of values, or low and high (and log: true)"
    )
    trials: PositiveInt = Field(24, description="how many suggestions are tried")
    sampler: Literal["tpe", "random"] = Field("tpe", description="who suggests: a tree-structured Parzen estimator, or chance")
    startup: PositiveInt = Field(8, description="trials that are drawn by chance before the estimator has seen enough")
    pruner: Literal["hyperband", "median", "none"] = Field("hyperband", description="who ends hopeless trials early")
    prune_from: PositiveInt = Field(
        1, description="first evaluation that may end a trial; early ones flatter high learning rates"
    )
    reduction_factor: int = Field(3, ge=2, description="Hyperband keeps one in so many trials at each rung")
    metric: str = Field("loss", description="what is searched for: loss, or a measure of the points such as token_f1")
    direction: Literal["minimize", "maximize"] | None = Field(
        None, description="which way the metric is better; known of the tasks' own measures"
    )
    seed: NonNegativeInt = Field(0, description="decides the suggestions; the runs themselves keep the base's seed")

    @field_validator("space", mode="before")
    @classmethod
    def _choices(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not given:
            raise ValueError("expected at least one dotted key of a run with its values")
        return {key: cls._choice(f"search.space.{key}", values) for key, values in given.items()}

    @staticmethod
    def _choice(name: str, values: Any) -> Any:
        if isinstance(values, Mapping):
            return parse(RangeConfig, values, where=name)
        if isinstance(values, RangeConfig) or (isinstance(values, list) and values):
            return values
        raise ValueError(f"{name}: expected a list of values, or low and high (got {values!r})")

    @model_validator(mode="after")
    def _direction_is_known(self) -> SearchConfig:
        _ = self.maximizes
        return self

    @property
    def maximizes(self) -> bool:
        """Whether more of the metric is better. Raises ConfigError where neither the metric's name nor the direction says so."""
        if self.direction is not None:
            return self.direction == "maximize"
        try:
            return larger_is_better(self.metric)
        except ConfigError as failure:
            raise ConfigError(f"search.metric: {failure}; or say search.direction") from None


class StudyConfig(Settings):
    """Many runs over one base configuration: a grid, or a search."""

    name: str = Field("study", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="the study's name")
    base: dict[str, Any] = Field(description="a run's configuration that all runs share")
    grid: dict[str, list[Any]] = Field({}, description="dotted key of a run -> values to try; all combinations are run")
    search: SearchConfig | None = Field(
        None, description="in place of a grid: suggest values trial by trial, then train the best"
    )
    final: dict[str, Any] = Field({}, description="dotted keys set for the training after a search, beside the best values")
    tune: TuneConfig | None = Field(None, description="tune one key of the grid on small budgets first")
    own_seeds: bool = Field(
        True, description="where the grid names no seeds, give each run its own, so that no two share their data order"
    )
    stack: PositiveInt = Field(8, description="how many adapters may ride on one frozen base at a time")

    @model_validator(mode="after")
    def _grid_or_search(self) -> StudyConfig:
        if self.search is None and "grid" not in self.model_fields_set:
            raise ValueError("exactly one of grid, search says what is run; found none")
        if self.search is not None and self.grid:
            raise ValueError("exactly one of grid, search says what is run; found both")
        if self.search is not None and self.tune is not None:
            raise ValueError("tune: is for a grid; a search prunes instead")
        if self.search is None and self.final:
            raise ValueError("final: follows a search, and there is none")
        return self

    @model_validator(mode="after")
    def _tuned_key_in_grid(self) -> StudyConfig:
        if self.tune is not None and self.tune.over not in self.grid:
            raise ValueError(f"tune.over: {self.tune.over!r} is not a key of grid (valid: {', '.join(self.grid)})")
        return self


def content_hash(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


Parsed = TypeVar("Parsed", bound=BaseModel)


def parse(model: type[Parsed], given: Mapping[str, Any], where: str = "") -> Parsed:
    """Validate; the first error becomes a one-line ConfigError that names the field and the valid choices."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as failure:
        raise ConfigError(_one_line(model, failure.errors(include_url=False), where)) from None


def _one_line(model: type[BaseModel], errors: Sequence[Any], where: str) -> str:
    """The first error, but an unknown key before anything that its misspelling has left missing."""
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    branches = re.compile(r"str|constrained-int|(list|literal)\[.*")  # of a union
    path = [part for part in map(str, error["loc"]) if not branches.fullmatch(part)]
    known = list(_models_along(model, path))
    field = ".".join([where, *path] if where else path)
    if error["type"] == "extra_forbidden":
        return f"{field}: {unknown('key', path[-1], known[-1].model_fields)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if field and message.startswith(f"{field}."):  # a method's own fields, already named in full
        return message
    shown = "" if error["type"] in {"value_error", "missing"} else f" (got {error['input']!r})"
    return f"{field}: {message}{shown}" if field else f"{message}{shown}"


def _models_along(model: type[BaseModel], path: list[str]) -> Iterator[type[BaseModel]]:
    """The settings that each part of a path belongs to, as far as they are settings."""
    for part in path:
        yield model
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        inner = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
        if inner is None:
            return
        model = inner


class UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key may be given once; otherwise the last one would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in given:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            given.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, safely. Raises ConfigError with the file and line of a mistake."""
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except UnicodeDecodeError as failure:
        raise ConfigError(f"{path}: not UTF-8 at byte {failure.start}") from None
    except yaml.YAMLError as failure:
        raise ConfigError(f"{path}: {_yaml_problem(failure)}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(given).__name__}")
    return given


def _yaml_problem(failure: yaml.YAMLError) -> str:
    mark = getattr(failure, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark else ""
    return line + str(getattr(failure, "problem", None) or "not valid YAML").replace("\n", " ")


def with_word(given: dict[str, Any], word: str) -> dict[str, Any]:
    """A copy of `given` in which one `dotted.key=value` word is set; the value is read as YAML."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected key=value, got {word!r} (for example training.tokens=1e6)")
    try:
        value = yaml.load(text, Loader=UniqueKeys)
    except yaml.YAMLError as failure:
        raise ConfigError(f"{key}: {_yaml_problem(failure)}") from None
    return with_value(given, key, value)


def with_value(given: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy of a nested mapping with one dotted key set; another budget of the same group gives way."""
    head, _, rest = dotted.partition(".")
    copy = dict(given)
    if not rest:
        if head in BUDGETS:
            copy = {key: kept for key, kept in copy.items() if key not in BUDGETS}
        copy[head] = value
        return copy
    inner = copy.get(head, {})
    if head in PLUG_INS and isinstance(inner, str):
        inner = {"name": inner}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{dotted}: {head} is not a group of keys")
    copy[head] = with_value(inner, rest, value)
    return copy


def load_run(path: Path | str | None, words: Iterable[str] = ()) -> RunConfig:
    """A run's configuration from an optional YAML file and `key=value` words (which win)."""
    given = read_yaml(Path(path)) if path else {}
    for word in words:
        given = with_word(given, word)
    return parse(RunConfig, given)


def load_study(path: Path | str, words: Iterable[str] = ()) -> StudyConfig:
    given = read_yaml(Path(path))
    for word in words:
        given = with_word(given, word)
    return parse(StudyConfig, given)
