"""Settings: read once from the environment, then handed down in small parts. No secret has a default.

The names are an interface: `STRIPE_SECRET_KEY`, `REFUNDRY_DATABASE_URL`, `REFUNDRY_STRIPE__API_BASE`, ….
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as Unreadable

from refundry.infra.db import sqlite_url
from refundry.kernel.errors import UsageError

STRIPE_API = "https://api.stripe.com"


class SettingsError(UsageError):
    """A setting that is missing or wrong; names it."""

    code = "setting_wrong"


class StripeSettings(BaseModel):
    """`REFUNDRY_STRIPE__…`.

    Args:
        secret_key: The key; `STRIPE_SECRET_KEY` is its usual name.
        api_base: Another address than Stripe's; a live key is never sent there.
        account: The `acct_…`, where the key may not ask for it.
        limits: `live`, `sandbox`, `none`, or `global=100,endpoint=25`; by default after the key's mode.
        headroom: The share of the limits that is left to the merchant's other traffic.
        order_key: The metadata key that holds the order id on charges.
    """

    secret_key: SecretStr | None = None
    api_base: str | None = None
    account: str | None = None
    limits: str | None = None
    headroom: float = Field(default=0.10, ge=0, lt=1)
    order_key: str = Field(default="order_id", min_length=1, max_length=40)

    @field_validator("api_base")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/?#@]+/?", value):
            raise ValueError("should be an address like http://127.0.0.1:12111, without a path and without a password")
        return value.rstrip("/") if value else None


class PaySettings(BaseModel):
    """`REFUNDRY_PAY__…`: times in seconds. The defaults are the safe ones; tests lower them.

    Args:
        look_max_age: How old a look at a charge may be when its refund is sent.
        absence_wait: How long after the last byte of an attempt in doubt the first look counts as proof of absence.
        absence_gap: How long after that the second look is made.
        slice: How many rows a worker claims at once.
        flight_max: How many rows a worker pays at once.
        age_max_days: The oldest charge that is refunded without a person.
    """

    look_max_age: float = Field(default=600, ge=0, le=3600)
    absence_wait: float = Field(default=600, ge=0)
    absence_gap: float = Field(default=60, ge=0)
    slice: int = Field(default=50, ge=1, le=500)
    flight_max: int = Field(default=50, ge=1, le=500)
    age_max_days: int = Field(default=0, ge=0)


class Settings(BaseSettings):
    """All of them."""

    model_config = SettingsConfigDict(env_prefix="REFUNDRY_", env_nested_delimiter="__", extra="ignore")

    mode: Literal["test", "live"] = "test"
    stripe: StripeSettings = StripeSettings()
    pay: PaySettings = PaySettings()
    database_url: SecretStr | None = None
    state_dir: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    log_json: bool = False
    stripe_secret_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("STRIPE_SECRET_KEY"))

    @property
    def key(self) -> str:
        """Tell Stripe's secret key.

        Raises:
            SettingsError: `stripe_key_missing`, `stripe_key_wrong`, `stripe_key_of_other_mode`, `live_key_to_other_base`.
        """
        secret = self.stripe.secret_key or self.stripe_secret_key
        if secret is None or not secret.get_secret_value().strip():
            raise SettingsError(
                "there is no Stripe key: set STRIPE_SECRET_KEY to a restricted or secret key of your account "
                "(to try Refundry without one, run `refundry demo`)",
                code="stripe_key_missing",
                setting="STRIPE_SECRET_KEY",
            )
        return self._checked(secret.get_secret_value().strip())

    def _checked(self, key: str) -> str:
        match = re.match(r"(sk|rk)_(test|live)_\w", key, re.ASCII)
        if match is None:
            what = "a publishable key" if key.startswith("pk_") else "no key that can refund"
            raise SettingsError(
                f"STRIPE_SECRET_KEY holds {what}: it should begin with sk_test_, rk_test_, sk_live_ or rk_live_",
                code="stripe_key_wrong",
                setting="STRIPE_SECRET_KEY",
            )
        if match[2] != self.mode:
            advice = "set REFUNDRY_MODE=live to move real money" if match[2] == "live" else "unset REFUNDRY_MODE"
            raise SettingsError(
                f"the Stripe key is a {match[2]} key, and REFUNDRY_MODE is {self.mode}: {advice}, or take the other key",
                code="stripe_key_of_other_mode",
                setting="REFUNDRY_MODE",
            )
        if match[2] == "live" and self.stripe.api_base not in {None, STRIPE_API}:
            raise SettingsError(
                f"a live key is never sent to another address than Stripe's: unset REFUNDRY_STRIPE__API_BASE "
                f"({self.stripe.api_base})",
                code="live_key_to_other_base",
                setting="REFUNDRY_STRIPE__API_BASE",
            )
        return key

    @property
    def folder(self) -> Path:
        """Tell the state directory; it may not exist yet."""
        return self.state_dir if self.state_dir is not None else _user_data() / "refundry"

    @property
    def database(self) -> str:
        """Tell the database's address, its driver named.

        Raises:
            SettingsError: `database_url_wrong`.
        """
        if self.database_url is None:
            return sqlite_url(self.folder / "refundry.db")
        url = self.database_url.get_secret_value()
        for prefix in ("postgresql://", "postgres://"):
            if url.startswith(prefix):
                return "postgresql+psycopg://" + url.removeprefix(prefix)
        if url.startswith(("sqlite:///", "postgresql+psycopg://")):
            return url
        raise SettingsError(
            "REFUNDRY_DATABASE_URL should begin with sqlite:/// or postgresql://",
            code="database_url_wrong",
            setting="REFUNDRY_DATABASE_URL",
        )


def _user_data() -> Path:
    """Tell where the platform keeps a user's data."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home()))  # noqa: TID251  # this is the place that reads settings
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")  # noqa: TID251  # the same


def read(**overrides: object) -> Settings:
    """Read the settings.

    Args:
        **overrides: Settings that win over the environment, as the demo's.

    Raises:
        SettingsError: `setting_wrong`, naming each wrong one and what is wrong with it; never its value.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except Unreadable as error:
        # Its text names the field, and never the value.
        found = re.search(r'field "(\w+)"', str(error))
        name = _name((found[1],)) if found else "REFUNDRY_…"
        raise SettingsError(
            f"{name} cannot be read: set its parts one by one, as in {name}__NAME", setting=name
        ) from None
    except ValidationError as error:
        told = "; ".join(f"{_name(e['loc'])} {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise SettingsError(told, setting=_name(error.errors()[0]["loc"])) from None


def _name(place: tuple[int | str, ...]) -> str:
    if place and str(place[0]).isupper():
        # An alias, which is the variable's own name.
        return str(place[0])
    return "REFUNDRY_" + "__".join(str(part).upper() for part in place)
