"""What the control plane asks of what keeps secrets from whoever reads its database.

tests/drivers/secret_contract.py is this text as tests; every driver passes it.
"""

from typing import Protocol


class SecretStore(Protocol):
    """Wraps small secrets, such as keys of data, so that only it can unwrap them."""

    key_id: str  # of the key that it wraps with: two stores of the same unwrap each other's

    async def wrap(self, plain: bytes, context: bytes) -> bytes:
        """The secret, wrapped. It is bound to the context, which is no secret: what it is, and whose."""
        ...

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The secret again. Raises LookupError where the key that wrapped it is not there, and ValueError when it is
        not what was wrapped, or that in another context."""
        ...
