"""What JSON can hold, with a digest by which a change of it is seen."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def sealed(content: Any) -> dict[str, Any]:
    """The content and a digest of it."""
    return {"content": content, "sha256": digest(content)}


def unsealed(found: Any) -> Any:
    """The content, whose digest is right. Raises ValueError."""
    if not isinstance(found, dict) or set(found) != {"content", "sha256"}:
        raise ValueError("it is no checkpoint of funcprop")
    if digest(found["content"]) != found["sha256"]:
        raise ValueError("its description is not what was written")
    return found["content"]


def digest(content: Any) -> str:
    """Of what JSON can hold, however it is laid out in a file."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
