"""The command line: one file a group of verbs, each verb a few lines around one library call."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version as installed_version
from typing import Annotated, NoReturn

import typer

from isolora import registry
from isolora.cli import costs, fits, imports, life, listing, proofs, runs, setup, studies
from isolora.cli.standard_streams import check_arguments, delivered, open_streams
from isolora.deferred_imports import defer_imports
from isolora.errors import PlugInError, RunFailed, UserError
from isolora.garbage import collect_seldom
from isolora.paths import short_name

app = typer.Typer(
    name="isolora",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def isolora(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and end")] = False,
) -> None:
    """Compute-optimal LoRA adapters: small studies, exact FLOPs, scaling laws, recommendations that hold."""
    if version:
        print(f"isolora {installed_version('isolora')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def interruptible(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with one line and an exit status for INT and TERM; typer has no line, and one status for both."""

    @wraps(verb)
    def ended(*given: object, **named: object) -> None:
        try:
            verb(*given, **named)
        except KeyboardInterrupt as stop:
            print(f"isolora: {str(stop) or 'interrupted'}; the same command goes on from here", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(getattr(stop, "exit_status", 130))  # at once: torch takes seconds to go

    return ended


for verbs in (
    studies.VERBS,
    setup.VERBS,
    runs.VERBS,
    costs.VERBS,
    fits.VERBS,
    proofs.VERBS,
    imports.VERBS,
    life.VERBS,
    listing.VERBS,
):
    for verb in verbs:
        app.command(name=verb.__name__.rstrip("_").replace("_", "-"))(interruptible(verb))


def main() -> None:
    """Entry point. A person's mistake ends in one line on standard error and exit status 2; a training that broke, and an error
    in the code of a plug-in from another package, in one line and status 1; INT and TERM in 130 and 143.

    ISOLORA_DEBUG=1 shows the whole traceback.
    """
    collect_seldom()
    defer_imports()
    open_streams()
    _quiet_libraries()
    try:
        check_arguments()
        with registry.plug_ins_named(), delivered():
            status = app(prog_name="isolora", standalone_mode=False)
        sys.exit(status)
    except typer.TyperException as error:
        _leave(f"{error.format_message().rstrip('.')} ({_help_of(error)})", 2)
    except typer.Abort:  # INT or the end of the input at a question
        _leave("given up", 130)
    except (UserError, PlugInError) as error:
        if os.environ.get("ISOLORA_DEBUG"):
            raise
        if isinstance(error, PlugInError):
            print("isolora: ISOLORA_DEBUG=1 shows the whole traceback", file=sys.stderr)
        _leave(str(error), 1 if isinstance(error, RunFailed | PlugInError) else 2)
    except OSError as error:  # a name too long, a right that is missing, a full disk: of a file that the person named
        if os.environ.get("ISOLORA_DEBUG") or not error.filename:
            raise
        _leave(f"{short_name(error.filename)}: {error.strerror} (ISOLORA_DEBUG=1 shows where)", 2)


def _help_of(error: typer.TyperException) -> str:
    """Where a word that the parser did not take is explained."""
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'isolora'} --help"


def _leave(line: str, status: int) -> NoReturn:
    print(f"isolora: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(status)


def _quiet_libraries() -> None:
    """Their progress bars and remarks are not ours to print; whoever wants them sets these variables."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for library in ("transformers", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
