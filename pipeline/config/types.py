"""Types of settings with their checks, and what is said of a wrong one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict, ValidationError

Finite = Annotated[float, Field(allow_inf_nan=False)]


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


Count = Annotated[int, Field(ge=1)]


Size = Annotated[int, Field(ge=1, le=10**6)]  # of a layer; more is a slip of the keyboard


Seconds = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]


Natural = Annotated[int, Field(ge=0)]


Strings = Annotated[tuple[str, ...], Strict(False)]


Reasoned = Annotated[str, Field(pattern=r"^\s*[^:]*[^:\s]\s*:\s*\S")]


RULES = ConfigDict(extra="forbid", strict=True)


class ConfigError(Exception):
    """The command line or the config is wrong; its text is one line for the user (exit code 2)."""

    def __init__(self, key: str, value: Any, allowed: str) -> None:
        """Write the line ``key=value: allowed``, with a long value cut after 197 characters."""
        text = str(value)
        shown = text if len(text) <= 200 else f"{text[:197]}..."
        super().__init__(" ".join(f"{key}={shown}: {allowed}".split()))


def explain_first(
    error: ValidationError, *, prefix: tuple[str, ...], allowed: list[str]
) -> ConfigError:
    """Turn the first complaint of a validation into one line."""
    first = error.errors(include_url=False)[0]
    path = [*prefix, *map(str, first["loc"])]
    key = ".".join(path)
    if first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return ConfigError(key, first["input"], f"unknown key; allowed here: {', '.join(allowed)}")
    if first["type"].startswith("missing"):
        return ConfigError(key, "???", "is missing")
    message = first["msg"].replace("Input should be", "must be")
    if key.startswith("parity.accept"):
        message = "must be 'name: reason', with the name of a rung or quantity"
    return ConfigError(key, first["input"], message)
