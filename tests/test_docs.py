"""The documents stay true: every command shown parses, every configuration is valid, every name and every link exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

import isolora
from isolora.cli import app
from isolora.config import RunConfig, StudyConfig, load_run, parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
BLOCK = re.compile(r"^ *```(\w+)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
GROUP = typer.main.get_command(app)


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """Words of each call of isolora: lines of shell blocks that begin with it, in consoles behind a `$`; comments left out."""
    typed = [(block, "") for block in blocks(page, "sh", "bash")] + [(block, "$ ") for block in blocks(page, "console")]
    for block, prompt in typed:
        for line in block.replace("\\\n", " ").splitlines():
            begins = line.strip().startswith(prompt) and "isolora" in line.split("#")[0]
            words = shlex.split(line.strip().removeprefix(prompt), comments=True) if begins else []
            if words and Path(words[0]).name == "isolora":
                yield words[1:]


CALLS = [(page.relative_to(ROOT), words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(("page", "words"), CALLS, ids=[f"{page}: {' '.join(words)}"[:90] for page, words in CALLS])
def test_a_command_shown_parses(page: Path, words: list[str]) -> None:
    """Its verb, its options and its keys exist; nothing is run."""
    if words[0].startswith("--"):
        assert words[0] in {"--version", "--help", "--install-completion", "--show-completion"}
        return
    verb = GROUP.get_command(None, words[0])
    assert verb is not None, f"no verb {words[0]}"
    verb.make_context(words[0], words[1:])
    keys = [word for word in words if re.fullmatch(r"(model|seed|(data|method|training|task)(\.\w+)?)=.*", word)]
    with_budget = any(re.match(r"training\.(tokens|steps|epochs|flops)=", key) for key in keys)
    load_run(None, keys if with_budget else [*keys, "training.tokens=1000"])  # a file, or one step, has the budget else


def test_there_is_something_to_check() -> None:
    assert len(CALLS) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_configuration_shown_is_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        keys = yaml.safe_load(block)
        if isinstance(keys, dict) and {"grid", "search", "runs", "tune"} & keys.keys():
            parse(StudyConfig, {"base": {}, "grid": {"seed": [0]}} | keys if "search" not in keys else {"base": {}} | keys)
        elif isinstance(keys, dict) and set(keys) <= set(RunConfig.model_fields):
            parse(RunConfig, keys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_shown_uses_names_that_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
        for name in re.findall(r"\bisolora\.(\w+)", re.sub(r"^.*\bimport\b.*$", "", block, flags=re.MULTILINE)):
            assert name in isolora.__all__ or (ROOT / "src" / "isolora" / name).exists() or name == "extend", name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Files are there. `make docs` looks at headings, too."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page}: {target}"
            assert (
                page.parent == ROOT
                or ROOT / "docs" not in page.parents
                or (page.parent / target).resolve().is_relative_to(ROOT / "docs")
            ), f"{page}: {target} is not part of the site"


def test_what_the_page_of_python_shows_is_defined() -> None:
    shown = re.findall(r"^::: (\S+)", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    for module, _, name in (path.rpartition(".") for path in shown):
        place = ROOT / "src" / Path(*module.split("."))
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        assert re.search(rf"^(def|class) {name}\b", file.read_text(encoding="utf-8"), re.MULTILINE), f"{module}.{name}"
    ends = {path.rpartition(".")[2] for path in shown}
    public = {name: inner for name, (_, inner) in isolora._HOMES.items()}
    assert [name for name, inner in public.items() if inner not in ends] == ["RunConfig", "StudyConfig"], "the reference has keys"


def test_every_page_is_in_the_navigation() -> None:
    shown = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert not [page for page in pages if page not in shown and not page.startswith("decisions/20")]
