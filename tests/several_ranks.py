"""What each process of `torchrun` does in test_ranks.py: [name, run] pairs of a JSON file in turn."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path


def main() -> None:
    gc.disable()  # a third of what it takes to import torch and transformers, in each process
    import torch.distributed as dist

    from isolora.config import RunConfig, parse
    from isolora.errors import ConfigError
    from isolora.training import train

    gc.enable()
    gc.freeze()
    runs = json.loads(Path(sys.argv[1]).read_text())
    for name, given in runs:
        folder = Path(sys.argv[1]).parent / name
        try:
            train(parse(RunConfig, given), folder, quiet=True)
        except ConfigError as refusal:
            if dist.get_rank() == 0:
                folder.with_suffix(".refused").write_text(str(refusal))
    dist.destroy_process_group()
    gc.freeze()


if __name__ == "__main__":
    main()
