"""Base models: where a name leads, what is counted, what a wrong name says."""

from __future__ import annotations

import logging.handlers
from pathlib import Path

import pytest
import tiny
import torch

from isolora import models, registry
from isolora.config import RunConfig, TaskConfig
from isolora.errors import ConfigError
from isolora.models import fetch, names

torch.set_num_threads(1)
TASK = registry.load_plug_in("task", "causal-lm")


def a_run(model: object) -> RunConfig:
    return RunConfig(model=str(model))


def test_a_local_folder_loads_in_float32(tmp_path: Path) -> None:
    tiny.save(tmp_path, tiny.llama().half())
    base = models.load_base(a_run(tmp_path), TASK)
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float32}
    assert not base.model.training
    assert base.tokenizer("w5 w6 nonsense")["input_ids"] == [5, 6, 1]
    assert base.max_length == 64


def test_bodies_are_counted_without_embeddings_and_head() -> None:
    width, inner, layers = 16, 40, 2
    attention = 2 * width * width + 2 * width * 8
    body = layers * (attention + 3 * width * inner + 2 * width) + width
    for tied, tables in ((False, 2), (True, 1)):
        base = models.count_weights("tiny", tiny.llama(tie_word_embeddings=tied), None)
        assert base.body_parameters == body
        assert base.model_parameters == body + tables * tiny.VOCABULARY * width


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_skeleton_counts_as_the_loaded_model_does(kind: str, tmp_path: Path) -> None:
    tiny.save(tmp_path, tiny.MODELS[kind]())
    bones, loaded = models.skeleton(a_run(tmp_path), TASK), models.load_base(a_run(tmp_path), TASK)
    assert all(parameter.is_meta for parameter in bones.model.parameters())
    assert bones.body_parameters == loaded.body_parameters
    assert bones.model_parameters == loaded.model_parameters
    assert bones.max_length == loaded.max_length


def test_names_that_lead_nowhere_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    cases = {
        "no/such-model": "cannot load 'no/such-model'",
        str(tmp_path / "empty"): "has no config.json",
        "nano-1q": "did you mean 'nano-",
    }
    for name, line in (cases | {str(tmp_path / "broken"): "cannot load"}).items():
        for open_it in (models.load_base, models.skeleton):
            with pytest.raises(ConfigError, match=line) as caught:
                open_it(a_run(name), TASK)
            assert str(caught.value).startswith("model: ")
            assert "\n" not in str(caught.value)


def test_fingerprints_follow_the_weights(tmp_path: Path) -> None:
    one, other = tiny.llama(), tiny.llama()
    other.lm_head.weight.data[0, 0] += 1
    folders = [tiny.save(tmp_path / name, model) for name, model in (("one", one), ("same", tiny.llama()), ("other", other))]
    first, same, changed = map(models.fingerprint, folders)
    assert first == same != changed
    assert models.fingerprint("some/hub-model") == "some/hub-model"


@pytest.mark.parametrize(
    ("name", "whole", "counts"),
    [
        ("chat_template.jinja", True, True),
        ("additional_chat_templates/tools.jinja", True, True),
        ("vocab.txt", False, True),
        ("merges.txt", False, True),
        ("tokenizer.model", False, True),
        ("vocab.txt", True, False),  # tokenizer.json goes before it
        ("LICENSE.txt", True, False),
        ("README.md", False, False),
    ],
)
def test_fingerprints_follow_the_tokenizer_and_its_template(name: str, whole: bool, counts: bool, tmp_path: Path) -> None:
    """A chat template edited between two trainings into one folder gave the first one's result again."""
    folder = Path(tiny.save(tmp_path / "base", tiny.llama()))
    if not whole:
        (folder / "tokenizer.json").unlink()
    place = folder / name
    place.parent.mkdir(exist_ok=True)
    found = []
    for text in ("one", "other"):
        place.write_text(text)
        found.append(models.fingerprint(str(folder)))
    assert (found[0] != found[1]) == counts


def test_packaged_models_are_folders_of_their_name() -> None:
    for name, folder in models.packaged_models().items():
        assert folder.name == name
        assert models.locate(name) == str(folder)


def test_fetched_models_are_found_and_missed_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLORA_MODELS", str(tmp_path))
    with pytest.raises(ConfigError, match="fetch it with: isolora fetch-models"):
        models.locate("minilm-l6")
    tiny.save(tmp_path / "minilm-l6", tiny.llama())
    assert models.locate("minilm-l6") == str(tmp_path / "minilm-l6")


def test_only_models_that_can_be_fetched_are_fetched() -> None:
    with pytest.raises(ConfigError, match=r"unknown model to fetch 'minilm'; did you mean 'minilm-l6'\?"):
        fetch.fetch_models(["minilm"])
    assert tuple(fetch.MODELS) == names.FETCHED


def test_a_fetched_model_that_agrees_with_its_hashes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLORA_MODELS", str(tmp_path))
    built: list[str] = []
    monkeypatch.setattr(fetch, "build_model", lambda name, root: built.append(name))
    folder = tmp_path / "minilm-l6"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "SHA256SUMS").write_text(f"{fetch.file_digest(folder / 'config.json')}  config.json\n")
    assert fetch.fetch_models(["minilm-l6"]) == {"minilm-l6": f"{folder}: there, hashes agree"}
    (folder / "config.json").write_text("{ }")
    fetch.fetch_models(["minilm-l6"])
    assert built == ["minilm-l6"], "one that was changed is fetched again"


def test_an_installed_isolora_keeps_fetched_models_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISOLORA_MODELS", raising=False)
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path))
    assert names.fetched_root() == Path(__file__).resolve().parents[1] / "models"
    monkeypatch.setattr(names, "__file__", str(tmp_path / "lib" / "site-packages" / "isolora" / "models" / "names.py"))
    assert names.fetched_root() == tmp_path / "models"


def test_a_new_head_is_no_news_and_warnings_come_back(tmp_path: Path) -> None:
    """Transformers warns of every weight that a checkpoint lacks."""
    config = tiny.run().model_copy(
        update={"model": tiny.save(tmp_path, tiny.llama()), "task": TaskConfig(name="sequence-classification")}
    )
    handler, logger = logging.handlers.MemoryHandler(100), logging.getLogger("transformers")
    speaker = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(handler)
    try:
        models.load_base(config, models.bound_task(config, ("a", "b")))
        speaker.warning("something else")
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in handler.buffer] == ["something else"]
