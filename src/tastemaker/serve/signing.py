"""What the server signs: session cookies, tokens against forged requests, and the questions it asked.

One secret a gallery, 32 random bytes in a file only its owner reads; every use signs under a name of its own, so that
a signature for one thing is worth nothing for another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import Any

from tastemaker.errors import DataError, InvalidArgument

_SIZE = 32


class Signer:
    """Signs small JSON values."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, path: Path) -> Signer:
        """With the secret in a file, made where it is not there."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(os.urandom(_SIZE))
            except FileExistsError:
                pass
            secret = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be made or read ({error.strerror})", file=path) from error
        if len(secret) != _SIZE:
            raise DataError(f"is no secret of {_SIZE} bytes; delete it, and everybody gets a new session", file=path)
        return cls(secret)

    def seal(self, use: str, value: Any) -> str:
        """The value and its signature, fit for a cookie or a form."""
        body = base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
        return f"{body}.{self.tag(use, body)}"

    def open(self, use: str, sealed: str) -> Any:
        """The value that `seal` sealed for this use. Raises InvalidArgument for anything else."""
        body, _, tag = sealed.partition(".")
        if not (tag.isascii() and hmac.compare_digest(tag, self.tag(use, body))):
            raise InvalidArgument(f"this {use} was not made here, or was changed; load the page again")
        try:
            return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (binascii.Error, ValueError) as error:
            raise InvalidArgument(f"this {use} is damaged; load the page again") from error

    def tag(self, use: str, text: str) -> str:
        """Signature of a text for a use."""
        return hmac.new(self._secret, f"{use}\0{text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:40]
