"""Secrets sealed with AES-256-GCM (NIST SP 800-38D), under a key in a file of this host.

    sealing.key   the key, as 64 hex digits in a line; lines after the first are keys that were used before

What is sealed is the id of its key, a random nonce, and the ciphertext with its tag.
"""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY, ID, NONCE = 32, 8, 12  # bytes


class SealedSecrets:
    """See SecretStore. Makes the file if it is not there. Raises LookupError when it holds no key."""

    def __init__(self, file: Path) -> None:
        self._file = file
        keys = _keys(file) or _made(file)
        self._keys = {_id(key): AESGCM(key) for key in keys}
        self._first = _id(keys[0])
        self.key_id = self._first.hex()

    async def wrap(self, plain: bytes, context: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE)
        return self._first + nonce + self._keys[self._first].encrypt(nonce, plain, context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        id, nonce, sealed = wrapped[:ID], wrapped[ID : ID + NONCE], wrapped[ID + NONCE :]
        if id not in self._keys:
            raise LookupError(f"the key {id.hex()} is not in {self._file}")
        try:
            return self._keys[id].decrypt(nonce, sealed, context)
        except InvalidTag:
            raise ValueError("this is not what was sealed, or is that in another context") from None


def _id(key: bytes) -> bytes:
    return hashlib.sha256(b"sealing key\0" + key).digest()[:ID]


def _keys(file: Path) -> list[bytes]:
    """Those in the file; none when it is not there."""
    try:
        keys = [bytes.fromhex(line) for line in file.read_text().split()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise LookupError(f"{file} cannot be read as keys: {error}") from None
    if not keys or any(len(key) != KEY for key in keys):
        raise LookupError(f"{file} wants keys of {2 * KEY} hex digits, one in a line; put back what was in it")
    return keys


def _made(file: Path) -> list[bytes]:
    """The file, with a new key, on the disk before anything is sealed; that of whoever made it at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(f"{secrets.token_hex(KEY)}\n")
            opened.flush()
            os.fsync(opened.fileno())
        with suppress(FileExistsError):
            os.link(new, file)
    finally:
        new.unlink()
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return _keys(file)
