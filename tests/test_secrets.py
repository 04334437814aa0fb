"""Secrets of the surroundings are in nothing that isolora writes or says."""

from __future__ import annotations

from pathlib import Path

import pytest
import studies
import tiny
import yaml
from person import run

KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "MY_PASSWORD")
CANARY = "canary-7f3a"


@pytest.mark.usefixtures("plain_peft_here")
def test_canaries_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens in variables, and one in the hub's address: absent from records, stores, logs, cards, pages, trackers and errors."""
    for key in KEYS:
        monkeypatch.setenv(key, f"{CANARY}-{key}")
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{CANARY}@127.0.0.1:9")
    base = studies.base(tmp_path, tokens=300, batch_tokens=60, evaluate_from=100, trackers=["tensorboard"])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"name": "s", "base": base, "grid": {"method.rank": [2, 4]}}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(base))
    made = tmp_path / "made"
    said = ""
    for words in (
        ("study", tmp_path / "study.yaml", "--out", made / "study"),
        ("train", tmp_path / "run.yaml", "--out", made / "run"),
        ("eval", made / "run"),
        ("certify", made / "run"),
        ("export", made / "run", "--to", "merged", "--out", made / "merged"),
        ("report", made / "study", "--out", made / "page.html"),
        ("status", made / "study"),
        ("doctor",),
        ("train", tmp_path / "run.yaml", "model=acme/none", "--out", made / "none"),
        ("train", tmp_path / "run.yaml", "data.source=acme/none", "--out", made / "none"),
        ("cost", "model=acme/none"),
    ):
        _, out, err = run(monkeypatch, capsys, *words)
        said += out + err
    assert "acme/none" in said
    assert CANARY not in said
    files = [path for path in made.rglob("*") if path.is_file()]
    assert len(files) > 15
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []


def test_a_token_in_an_address_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address with a password is no name of a model or of data, and what was written is not said again."""
    address = f"https://user:{CANARY}@hub.example/acme/none"
    config = tiny.from_files(tmp_path, steps=1)
    model, source = (f"model={address}",), (f"model={config.model}", f"data.source={address}")
    for words in (("cost", *model), ("train", *model), ("preview", *model), ("train", *source), ("preview", *source)):
        out = ("--out", tmp_path / "out") if words[0] == "train" else ()
        status, said, err = run(monkeypatch, capsys, *words, *out)
        assert (status, said) == (2, "")
        assert "an address is no" in err
        assert CANARY not in err
    assert not (tmp_path / "out").exists()
