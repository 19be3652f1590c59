"""What is said of an error, in one line, and the exit code that it stands for."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.compose import explain_hydra
from pipeline.config.types import ConfigError
from pipeline.redact import hide_words, redact
from pipeline.sweeps.callback import Refused

# What the user asked for; `main` sets the first one itself, and workers inherit both.
DEBUG = os.environ.get("TWINGRAD_DEBUG", os.environ.get("HYDRA_FULL_ERROR")) == "1"


def say(text: str) -> None:
    """Print one line to stderr, without secrets and line breaks."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        line = hide_words(redact(" ".join(text.split())), sys.argv[1:])
        print(f"twingrad: {line}", file=sys.stderr, flush=True)


def tell_error(error: BaseException) -> int:
    """Say what went wrong in one line, and return the exit code it stands for."""
    if isinstance(error, Refused) and error.__cause__ is not None:
        error = error.__cause__
    if DEBUG:
        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    wrong = (ConfigError, HydraException, OmegaConfBaseException)
    if isinstance(error, wrong):
        say(explain_hydra(error))
        return 2
    say(f"{type(error).__name__}: {error}")
    return 1
