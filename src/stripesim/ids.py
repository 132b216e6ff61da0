"""Ids in Stripe's form, each a pure function of the seed and of the object's number, so that a run can be repeated."""

from collections.abc import Callable
from hashlib import blake2b

LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Each byte of a digest becomes a letter; eight letters are a little more likely than the others, which harms no id.
TABLE = bytes(LETTERS[byte % 62] for byte in range(256))


def token(*parts: object, length: int = 24) -> str:
    """Derive letters and digits from the parts.

    Args:
        parts: What the token stands for; equal parts give the equal token.
        length: At most 64 characters, of 62 kinds each.
    """
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=length).digest().translate(TABLE).decode()


def series(*parts: object, length: int = 24) -> Callable[[int], str]:
    """Prepare tokens that differ in their last part, a number: `series(*parts)(n)` is `token(*parts, n)`, sooner."""
    begun = blake2b("".join(f"{part}\0" for part in parts).encode(), digest_size=length)

    def one(number: int) -> str:
        digest = begun.copy()
        digest.update(b"%d" % number)
        return digest.digest().translate(TABLE).decode()

    return one


def stem_of(object_id: str) -> str:
    """Take the part that the ids of one payment share (`3UHn…` in `pi_3UHn…`, `ch_3UHn…`, `re_3UHn…`)."""
    return object_id.split("_", 1)[1][:16]
