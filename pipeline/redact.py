"""Texts without the passwords, tokens and signatures in them."""

from __future__ import annotations

import re
from typing import Any

# A password may hold quotes, so a text between two URIs without a space may go with it.
_PASSWORD = re.compile(r"://[^\s/@:]*:\S*@|://[^\s/]*@")
_NAMES = "password|passwd|pwd|token|secret|credentials?|signature|sig|key|key_?id"
_SECRET = re.compile(rf"(?i)([?&;](?:[\w.-]*[_.-])?(?:\w*(?:{_NAMES}))=)[^&;\s\"']+")


def redact(text: str) -> str:
    """Return a text without the userinfo of the URIs in it and the secrets in their queries.

    A secret is what stands, after ``?``, ``&`` or ``;``, behind a name that ends in password,
    passwd, pwd, token, secret, credential, signature, sig, key or key_id: ``client_secret``,
    ``access_key``, ``X-Amz-Signature``.
    """
    return _SECRET.sub(r"\1***", _PASSWORD.sub("://***@", text))


def redact_values(values: Any) -> Any:
    """Return plain containers with every text in them redacted; a config that may be shown."""
    if isinstance(values, dict):
        return {key: redact_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [redact_values(value) for value in values]
    return redact(values) if isinstance(values, str) else values
