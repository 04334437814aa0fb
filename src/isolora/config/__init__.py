"""What a run and a study are: typed settings read from YAML and `key=value` words, with one-line errors.

Field descriptions are written once, here; help texts and docs/reference.md are generated from them.
"""

from __future__ import annotations

from isolora.config.data import DataConfig, MixConfig
from isolora.config.plug_ins import MethodConfig, TaskConfig
from isolora.config.run_config import ForgettingConfig, RunConfig, load_run
from isolora.config.search_config import RangeConfig, SearchConfig
from isolora.config.settings import content_hash, parse
from isolora.config.strict_yaml import read_yaml, with_value, with_word
from isolora.config.study_config import StudyConfig, TuneConfig, is_study, load_study, run_of_study
from isolora.config.training import TrainingConfig

__all__ = [
    "DataConfig",
    "ForgettingConfig",
    "MethodConfig",
    "MixConfig",
    "RangeConfig",
    "RunConfig",
    "SearchConfig",
    "StudyConfig",
    "TaskConfig",
    "TrainingConfig",
    "TuneConfig",
    "content_hash",
    "is_study",
    "load_run",
    "load_study",
    "parse",
    "read_yaml",
    "run_of_study",
    "with_value",
    "with_word",
]
