"""Texts without the passwords, tokens and signatures in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# A password may hold quotes, so a text between two URIs without a space may go with it.
_PASSWORD = re.compile(r"(:/{1,2})(?:[^\s/@:]*:\S*@|[^\s/]*@)|(?<![\w:/.])(//)[^\s/@:]*:\S*@")
_WORDS = (
    "password|passwd|passphrase|pwd|token|secret|credential|signature|authorization|private_?key"
)
_ENDS = "pass|auth|jwt|sas|sig|key|key_?id"
# What may stand around a value, such as quotes, stays, so that JSON remains JSON.
_VALUE = r"(\\*[\"']?)[\w%+/=.~:-][^&;\s\"'\\]*"
_IN_QUERY = re.compile(
    rf"(?i)([?&;#](?:[^=&;#\s]*(?:{_WORDS})[^=&;#\s]*?|[^=&;#\s]*(?:{_ENDS}))(?:=|%3D)){_VALUE}"
)
# Outside of a query only names that cannot be a setting's.
_ALONE = re.compile(
    r"(?i)(\b(?:client_?secret|account_?key|access_?key|secret_?key|shared_?access_?key|api_?key"
    rf"|password|passwd|access_?token|auth_?token)=){_VALUE}"
)


def redact(text: str) -> str:
    """Return a text without the userinfo of the URIs in it and the secrets in their queries.

    A secret is what stands, after ``?``, ``&``, ``;`` or ``#``, behind a name that holds password,
    passwd, passphrase, pwd, token, secret, credential, signature, authorization or private_key, or
    ends in pass, auth, jwt, sas, sig, key or key_id: ``client_secret``, ``X-Amz-Signature``. Some
    names, such as ``client_secret``, are taken for a secret's wherever they stand.
    """
    text = _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***@", text)
    return _ALONE.sub(r"\1\2***", _IN_QUERY.sub(r"\1\2***", text))


def hide_words(text: str, words: Iterable[str]) -> str:
    """Return a text without the userinfo of the URIs in some words, wherever it stands there.

    A message may have a word in parts, in which nothing tells a password any more.
    """
    for word in words:
        for userinfo in re.findall(r":/{1,2}([^\s/@]*:\S*)@", word):
            text = text.replace(userinfo, "***")
    return text


def redact_values(values: Any) -> Any:
    """Return plain containers with every text in them redacted; a config that may be shown."""
    if isinstance(values, dict):
        return {key: redact_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [redact_values(value) for value in values]
    return redact(values) if isinstance(values, str) else values
