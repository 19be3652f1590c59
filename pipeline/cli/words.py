"""The words of a command line that Hydra takes for something else."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, RangeSweep

from pipeline.config.compose import CONF
from pipeline.config.types import ConfigError
from pipeline.sweeps.plan import MOST_JOBS


def check_words(words: Sequence[str]) -> None:
    """Refuse what Hydra takes for something else, before it composes anything.

    A group given a number, null or a list; an option outside of its group; a range without an end;
    ``hydra.launcher=name``, which replaces the launcher's settings by a word.
    """
    for flag, choice in [*itertools.pairwise(words), *map(_split, words)]:
        if flag in ("--cfg", "-c") and choice not in ("job", "hydra", "all"):
            raise ConfigError("--cfg", choice, "must be job, hydra or all")
    if {"-m", "--multirun"} & set(words) and {"--run", "-r"} & set(words):
        raise ConfigError("--run", "", "does not go with --multirun")
    given = [word for word in words if "=" in word and not word.startswith("-")]
    for override in OverridesParser.create().parse_overrides(given):
        _check_override(override)


def _split(word: str) -> tuple[str, str]:
    """Return a flag written with its value as one word; any other word is no flag."""
    flag, equals, value = word.partition("=")
    return (flag, value) if equals else ("", "")


def _check_override(override: Override) -> None:
    """Refuse one override that Hydra would take."""
    key, value = override.key_or_group, override.value()
    text = str(override.input_line).partition("=")[2]
    if key in ("hydra.launcher", "hydra.sweeper"):
        raise ConfigError(key, text, f"is a group; {key.replace('.', '/')}=name chooses one")
    if key == "hydra.output_subdir" and (
        "/" in text or ".." in text or len(os.fsencode(text)) > 255
    ):
        raise ConfigError(key, text, "must be the name of a folder, or null")
    if isinstance(value, RangeSweep):
        ends = [float(number or 0) for number in (value.start, value.stop, value.step)]
        if not all(map(math.isfinite, ends)):
            raise ConfigError(key, text, "has no end")
        if abs(ends[1] - ends[0]) > MOST_JOBS * abs(ends[2]):
            raise ConfigError(key, text, f"makes more than {MOST_JOBS} jobs")
    if (CONF / key).is_dir() and not override.is_delete():
        options = value.list if isinstance(value, ChoiceSweep) else [value]
        if not override.is_sweep_override() or isinstance(value, ChoiceSweep):
            for option in options:
                if not isinstance(option, str | QuotedString) or ".." in str(option):
                    names = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
                    raise ConfigError(key, text, f"must be one of {', '.join(names)}")
