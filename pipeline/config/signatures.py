"""Settings as annotated keyword-only parameters of the functions that take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from pydantic import ValidationError, create_model

from pipeline.config.schema import GROUPS, list_fields
from pipeline.config.types import RULES, ConfigError, explain_first


def choose_option(key: str, name: str, choices: Mapping[str, Any]) -> Any:
    """Return the choice of that name, or say which ones there are."""
    if name not in choices:
        raise ConfigError(key, name, f"must be one of {', '.join(sorted(choices))}")
    return choices[name]


def list_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the public functions that a module itself defines: the options it offers."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def check_settings(
    group: str, function: Callable[..., Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Check a component's settings against the annotated keyword-only signature of its function.

    Parameters annotated without a check are those the program itself passes (shapes, arrays, a
    generator); settings are the keyword-only ones whose annotation is a config type.
    """
    hints = inspect.get_annotations(function, eval_str=True)
    wanted = {
        name: (hints[name], ...)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and _is_setting(hints.get(name))
    }
    schema = create_model("Settings", __config__=RULES, **wanted)  # type: ignore[call-overload]
    try:
        return dict(schema.model_validate(dict(settings)))
    except ValidationError as error:
        allowed = sorted({*list_fields(GROUPS[group]), *wanted})
        raise explain_first(error, prefix=(group,), allowed=allowed) from None


def _is_setting(hint: Any) -> bool:
    """Whether an annotation is one of this module's checked types, a bool or a choice."""
    text = repr(hint)
    return hint is bool or "FieldInfo" in text or "Literal" in text or "Strict" in text
