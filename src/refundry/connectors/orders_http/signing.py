"""Signatures after the Standard Webhooks specification (1.0.0, standardwebhooks.com), symmetric, `v1`. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from refundry.infra.settings import SettingsError

PREFIX = "whsec_"
# The specification's bounds, in bytes.
KEY_MIN, KEY_MAX = 24, 64


def keys_of(secrets: str, setting: str) -> tuple[bytes, ...]:
    """Read secrets: `whsec_` and base64, several with commas or spaces between; each signs, so that a receiver may know any of them.

    Raises:
        SettingsError: `orders_secret_wrong`; its text never has the secret.
    """
    found = tuple(_key(word, setting) for word in secrets.replace(",", " ").split())
    if not found:
        raise _wrong(setting, "is empty")
    return found


def _key(word: str, setting: str) -> bytes:
    if not word.startswith(PREFIX):
        raise _wrong(setting, f"holds one that does not begin with {PREFIX}")
    try:
        key = base64.b64decode(word.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise _wrong(setting, "holds one that is no base64") from None
    if not KEY_MIN <= len(key) <= KEY_MAX:
        raise _wrong(setting, f"holds one of {len(key)} bytes, where {KEY_MIN} to {KEY_MAX} are needed")
    return key


def _wrong(setting: str, what: str) -> SettingsError:
    return SettingsError(
        f"{setting} {what}: a secret is {PREFIX} and the base64 of 24 to 64 random bytes; "
        f"`echo {PREFIX}$(openssl rand -base64 32)` makes one",
        code="orders_secret_wrong",
        setting=setting,
    )


def headers(message: str, at: float, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """Sign a body.

    Args:
        message: The message's id, the same whenever it is sent again.
        at: When this try is made, epoch seconds UTC: receivers refuse what is older than a few minutes.
        body: The bytes that are sent.
        keys: Each makes one signature.
    """
    moment = str(int(at))
    signed = b".".join((message.encode(), moment.encode(), body))
    told = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    signatures = " ".join(f"v1,{one}" for one in told)
    return {"webhook-id": message, "webhook-timestamp": moment, "webhook-signature": signatures}
