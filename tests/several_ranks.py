"""What processes that are forked ready do in test_ranks.py: train [name, run] pairs of a JSON file in turn, as one of several
that `torchrun` has started, or call the command line."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path


def main(file: str) -> None:
    gc.disable()  # a third of what it takes to import torch and transformers, in each process
    import torch.distributed as dist

    from isolora.config import RunConfig, parse
    from isolora.errors import ConfigError
    from isolora.training import train

    gc.enable()
    gc.freeze()
    runs = json.loads(Path(file).read_text())
    for name, given in runs:
        folder = Path(file).parent / name
        try:
            train(parse(RunConfig, given), folder, quiet=True)
        except ConfigError as refusal:
            if dist.get_rank() == 0:
                folder.with_suffix(".refused").write_text(str(refusal))
    dist.destroy_process_group()
    gc.freeze()


def ready(file: str, errors: str) -> None:
    """The same in a process that has what `torchrun` tells in its environment."""
    _say_in(errors)
    main(file)


def command(words: list[str], errors: str) -> None:
    from isolora.cli import main as cli

    _say_in(errors)
    sys.argv = ["isolora", *words]
    cli()


def _say_in(path: str) -> None:
    """Standard error of this process is a file, warnings of libraries in C included."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, 2)
    sys.stderr = os.fdopen(opened, "w", buffering=1)


if __name__ == "__main__":
    main(sys.argv[1])
