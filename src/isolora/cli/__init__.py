"""The command line: one file a group of verbs, each verb a few lines around one library call."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer

from isolora import registry
from isolora.cli import costs, fits, life, listing, runs, setup, studies
from isolora.errors import PlugInError, UserError

app = typer.Typer(
    name="isolora",
    help="Compute-optimal LoRA adapters: small studies, exact FLOPs, scaling laws, recommendations that hold.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verbs in (studies.VERBS, setup.VERBS, runs.VERBS, costs.VERBS, fits.VERBS, life.VERBS, listing.VERBS):
    for verb in verbs:
        app.command(name=verb.__name__.rstrip("_"))(verb)


def main() -> None:
    """Entry point. A person's mistake ends in one line on standard error and exit status 2; an error in the code of a plug-in
    from another package in one line and exit status 1. ISOLORA_DEBUG=1 shows the whole traceback of either."""
    _quiet_libraries()
    try:
        with registry.plug_ins_named():
            app()
    except (UserError, PlugInError) as error:
        if os.environ.get("ISOLORA_DEBUG"):
            raise
        print(f"isolora: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error, PlugInError):
            print("isolora: ISOLORA_DEBUG=1 shows the whole traceback", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except BrokenPipeError:
        os._exit(0)


def _quiet_libraries() -> None:
    """Their progress bars and remarks are not ours to print; whoever wants them sets these variables."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for library in ("transformers", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
