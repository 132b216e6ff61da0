"""Settings: read once from the environment, then handed down in small parts. No secret has a default.

The names are an interface: `STRIPE_SECRET_KEY`, `REFUNDRY_DATABASE_URL`, `REFUNDRY_STRIPE__API_BASE`, ….
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import sqlalchemy as sa
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as Unreadable

from refundry.infra.db import sqlite_url
from refundry.kernel.errors import UsageError

STRIPE_API = "https://api.stripe.com"
# Of a shorter secret its last four characters would give away too much.
SECRET_SHOWN_FROM = 16
# A blank around it, as from a file of variables, would name a key that no charge has, and no order would be found.
OrderKey = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]


class SettingsError(UsageError):
    """A setting that is missing or wrong; names it."""

    code = "setting_wrong"


def _an_account(value: str | None) -> str | None:
    """Read an account's id: it is a part of every refund request's id, so that a slip of the pen would make each another request."""
    if value is None:
        return None
    if not re.fullmatch(r"acct_\w+", value.strip(), re.ASCII):
        raise ValueError("should be an account's id, acct_…")
    return value.strip()


class StripeSettings(BaseModel):
    """`REFUNDRY_STRIPE__…`.

    Args:
        secret_key: The key; `STRIPE_SECRET_KEY` is its usual name.
        api_base: Another address than Stripe's; a live key is never sent there.
        account: The `acct_…`, where the key may not ask for it.
        limits: `live`, `sandbox`, `none`, or `global=100,endpoint=25`; by default after the key's mode.
        headroom: The share of the limits that is left to the merchant's other traffic.
        order_key: The metadata key that holds the order id on charges.
        reverse_transfer: Whether refunds of destination charges take the transfer back, where the row does not say.
        refund_application_fee: Whether refunds give the platform's fee back, where the row does not say.
    """

    secret_key: SecretStr | None = None
    api_base: str | None = None
    account: str | None = None
    limits: str | None = None
    headroom: FiniteFloat = Field(default=0.10, ge=0, lt=1)
    order_key: OrderKey = "order_id"
    reverse_transfer: bool | None = None
    refund_application_fee: bool | None = None

    _account = field_validator("account")(_an_account)

    @field_validator("api_base")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/?#@]+/?", value):
            raise ValueError("should be an address like http://127.0.0.1:12111, without a path and without a password")
        return value.rstrip("/") if value else None


class AccountSettings(BaseModel):
    """`REFUNDRY_ACCOUNTS__<NAME>__…`: a further account, by a key of its own or reached with the primary key.

    Limits, head-room and order key that are left out are as for the primary account; the last two are nobody else's. Nothing else
    may stand here: a part that is misspelled would be ignored.

    Args:
        secret_key: Its own key.
        connected: The `acct_…` of a connected account, reached with the primary key and `Stripe-Account` (stripe-facts 9).
        account: The `acct_…` that its own key opens: needed where the key may not ask for it, and a word for `--account`.
        webhook_secret: Signs the events that come to `/webhooks/stripe/{account}`: one, or several with commas between.
        limits: As in `StripeSettings`; so the others.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    secret_key: SecretStr | None = None
    webhook_secret: SecretStr | None = None
    connected: str | None = None
    account: str | None = None
    limits: str | None = None
    headroom: FiniteFloat | None = Field(default=None, ge=0, lt=1)
    order_key: OrderKey | None = None
    reverse_transfer: bool | None = None
    refund_application_fee: bool | None = None

    _accounts = field_validator("connected", "account")(_an_account)


@dataclass(frozen=True, slots=True)
class Access:
    """How one account is reached, and what is set for it.

    Args:
        name: Its name in the settings, lower case; empty for the primary account. Only a way to write settings: the account's
            real name is always `acct_…|test`.
        key: What the calls are made with.
        connected: The connected account on which they are made.
        said: The `acct_…` that the settings say it is; `None`, where only Stripe knows.
        limits: As in `StripeSettings`; so the others.
        webhook_secrets: What its webhooks are signed with; any of them does.
    """

    name: str
    key: str = field(repr=False)
    connected: str | None
    said: str | None
    limits: str | None
    headroom: float
    order_key: str
    reverse_transfer: bool | None
    refund_application_fee: bool | None
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)

    def setting(self, part: str) -> str:
        """Name the variable that sets a part of it: `limits` is `REFUNDRY_STRIPE__LIMITS`."""
        if part in {"secret_key", "webhook_secret"} and not self.name:
            return f"STRIPE_{part.upper()}"
        return _name(("accounts", self.name, part) if self.name else ("stripe", part))

    @property
    def opened_by(self) -> str:
        """Name the variable that opens it."""
        return self.setting("connected") if self.connected else self.key_by

    @property
    def key_by(self) -> str:
        """Name the variable that sets the key: of a connected account it is the primary one's."""
        return "STRIPE_SECRET_KEY" if self.connected else self.setting("secret_key")


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

    look_max_age: FiniteFloat = Field(default=600, ge=0, le=3600)
    absence_wait: FiniteFloat = Field(default=600, ge=0)
    absence_gap: FiniteFloat = Field(default=60, ge=0)
    slice: int = Field(default=50, ge=1, le=500)
    flight_max: int = Field(default=200, ge=1, le=500)
    age_max_days: int = Field(default=0, ge=0)


class OrderSettings(BaseModel):
    """`REFUNDRY_ORDERS__…`: who is told what becomes of refunds. Nothing is, unless one of `url`, `sql_url` and `file` is set.

    Args:
        url: Where the order system listens for signed calls.
        secrets: What they are signed with: `whsec_…`, several with commas between while one is replaced.
        kinds: Which messages go there and to `file`: `all`, or names with commas between; `refund_request.*` works too.
        sql_url: The shop's own database.
        sql_statement: What is run there for each message, with named parameters from its fields.
        sql_kinds: Which messages it is run for.
        file: Where messages are appended as JSON lines; `-` is standard output.
        at_once: How many messages are on their way to one target at once; of one order it is one.
        timeout_seconds: How long a call may take in all.
        tries_max: After how many tries a message is parked, until a person re-sends or drops it.
    """

    url: str | None = None
    secrets: SecretStr | None = None
    kinds: str = "all"
    sql_url: SecretStr | None = None
    sql_statement: str | None = None
    sql_kinds: str = "order.refunded_changed"
    file: str | None = None
    at_once: int = Field(default=16, ge=1, le=64)
    timeout_seconds: FiniteFloat = Field(default=10, gt=0, le=30)
    # An hour apart at most, they last for some 21 hours: over a night and a morning.
    tries_max: int = Field(default=40, ge=1, le=1000)


class FollowSettings(BaseModel):
    """`REFUNDRY_FOLLOW__…`: how often Stripe is asked for what no webhook has told.

    Args:
        poll_seconds: How often, while something is on its way; a fifteenth of it otherwise, and where webhooks come.
        reads_per_day: How many calls that may cost in a day; zero for any number.
    """

    poll_seconds: FiniteFloat = Field(default=60, ge=1, le=86_400)
    reads_per_day: int = Field(default=3000, ge=0)


# Stripe lists events for thirty days, and sends one again for three more at most (stripe-facts 5.3); two for clocks that are wrong.
KEEP_EVENTS_MIN = 35


class KeepSettings(BaseModel):
    """`REFUNDRY_KEEP__…`: for how many days what is over is kept; zero for ever. What waits or is parked always is.

    Args:
        events_days: Events that were applied or ignored, since they came. Stripe must not be able to tell one again that is forgotten.
        messages_days: Messages that were delivered or dropped, since then.
    """

    events_days: int = Field(default=90, ge=0)
    messages_days: int = Field(default=90, ge=0)

    @field_validator("events_days")
    @classmethod
    def _longer_than_stripe(cls, value: int) -> int:
        if 0 < value < KEEP_EVENTS_MIN:
            raise ValueError(
                f"should be 0, for ever, or at least {KEEP_EVENTS_MIN}: Stripe tells events again for so long"
            )
        return value


class Settings(BaseSettings):
    """All of them."""

    model_config = SettingsConfigDict(env_prefix="REFUNDRY_", env_nested_delimiter="__", extra="ignore")

    mode: Literal["test", "live"] = "test"
    stripe: StripeSettings = StripeSettings()
    accounts: dict[str, AccountSettings] = Field(default_factory=dict)
    pay: PaySettings = PaySettings()
    follow: FollowSettings = FollowSettings()
    orders: OrderSettings = OrderSettings()
    keep: KeepSettings = KeepSettings()
    database_url: SecretStr | None = None
    state_dir: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    log_json: bool = False
    stripe_secret_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("STRIPE_SECRET_KEY"))
    stripe_webhook_secret: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("STRIPE_WEBHOOK_SECRET")
    )

    @field_validator("state_dir", mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        # An empty path would be the current directory.
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("state_dir")
    @classmethod
    def _a_folder(cls, value: Path | None) -> Path | None:
        try:
            return value.expanduser().absolute() if value is not None else None
        except RuntimeError:
            raise ValueError("should be a directory; its ~ names nobody's home") from None

    otlp_endpoint: str | None = Field(default=None, validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT"))
    otlp_traces_endpoint: str | None = Field(
        default=None, validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )

    @property
    def traces_endpoint(self) -> str | None:
        """Tell where traces of refund requests go; `None`, if nowhere. OpenTelemetry reads it too, with all else that it knows."""
        return self.otlp_traces_endpoint or self.otlp_endpoint

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
        return self._checked(secret.get_secret_value().strip(), "STRIPE_SECRET_KEY")

    @property
    def primary(self) -> Access:
        """Tell how the primary account is reached.

        Raises:
            SettingsError: As `key`.
        """
        stripe = self.stripe
        return Access(
            "", self.key, None, stripe.account, stripe.limits, stripe.headroom, stripe.order_key,
            stripe.reverse_transfer, stripe.refund_application_fee,
            _webhook_secrets(self.stripe_webhook_secret, "STRIPE_WEBHOOK_SECRET"),
        )  # fmt: skip

    @property
    def accesses(self) -> tuple[Access, ...]:
        """Tell how each account is reached, the primary first, the others by their names in the settings.

        Raises:
            SettingsError: As `key`, for each key; `account_setting_wrong`, `account_twice`.
        """
        found = (self.primary, *(self._further(name, self.accounts[name]) for name in sorted(self.accounts)))
        by_account: dict[str, Access] = {}
        for access in found:
            if access.said is not None and (other := by_account.setdefault(access.said, access)) is not access:
                raise account_twice(access.said, other, access)
        return found

    def _further(self, name: str, own: AccountSettings) -> Access:
        place, secret = _name(("accounts", name)), own.secret_key.get_secret_value().strip() if own.secret_key else ""
        if bool(secret) == bool(own.connected) or (own.connected and own.account not in {None, own.connected}):
            raise SettingsError(
                f"{place} says {'too much' if own.connected else 'too little'}: give it either {place}__SECRET_KEY, a key of its own, or "
                f"{place}__CONNECTED, the acct_… of an account that the primary key is connected to",
                code="account_setting_wrong",
                setting=place,
            )
        key = self._checked(secret, f"{place}__SECRET_KEY") if secret else self.key
        usual = self.primary
        return Access(
            name, key, own.connected, own.connected or own.account,
            usual.limits if own.limits is None else own.limits,
            usual.headroom if own.headroom is None else own.headroom,
            usual.order_key if own.order_key is None else own.order_key,
            own.reverse_transfer, own.refund_application_fee,
            _webhook_secrets(own.webhook_secret, f"{place}__WEBHOOK_SECRET"),
        )  # fmt: skip

    def _checked(self, key: str, setting: str) -> str:
        match = re.match(r"(sk|rk)_(test|live)_\w", key, re.ASCII)
        if match is None:
            what = "a publishable key" if key.startswith("pk_") else "no key that can refund"
            raise SettingsError(
                f"{setting} holds {what}: it should begin with sk_test_, rk_test_, sk_live_ or rk_live_",
                code="stripe_key_wrong",
                setting=setting,
            )
        if match[2] != self.mode:
            advice = "set REFUNDRY_MODE=live to move real money" if match[2] == "live" else "unset REFUNDRY_MODE"
            raise SettingsError(
                f"{setting} is a {match[2]} key, and REFUNDRY_MODE is {self.mode}: {advice}, or take the other key",
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
                url = "postgresql+psycopg://" + url.removeprefix(prefix)
        if url.startswith("sqlite:///"):
            return url
        if flaw := flaw_of_address(url):
            setting = "REFUNDRY_DATABASE_URL"
            raise SettingsError(f"{setting} {flaw}", code="database_url_wrong", setting=setting)
        return url


def flaw_of_address(url: str) -> str:
    """Tell why the address of a Postgres, its driver named, cannot be read; nothing, if it can. Nothing of it is told: any part may be one of a password."""
    if not url.startswith("postgresql+psycopg://"):
        return "should begin with sqlite:/// or postgresql://"
    import psycopg  # not on SQLite: it takes longer than most commands

    shape = "write it as postgresql://user:password@host:port/database"
    try:
        parts = sa.make_url(url)
    except (ValueError, sa.exc.ArgumentError):
        return f"cannot be read as an address: {shape}, the port in figures"
    if "@" in (parts.host or ""):
        return "holds more than one @: write an @ of a name or a password as %40"
    try:
        psycopg.conninfo.make_conninfo("", **dict.fromkeys(parts.query, ""))
    except psycopg.ProgrammingError:
        return f"has an option after its ? that Postgres does not know: {shape}?sslmode=require"
    return ""


def _webhook_secrets(given: SecretStr | None, setting: str) -> tuple[str, ...]:
    """Read the secrets of webhook endpoints.

    Raises:
        SettingsError: `webhook_secret_wrong`.
    """
    secrets = tuple(part.strip() for part in given.get_secret_value().split(",")) if given else ()
    secrets = tuple(secret for secret in secrets if secret)
    if any(not re.fullmatch(r"whsec_[!-~]+", secret) for secret in secrets):
        raise SettingsError(
            f"{setting} holds no secret of a webhook endpoint: each begins with whsec_, and several have commas between them; "
            "`refundry webhooks register` tells one, and Stripe's dashboard shows it",
            code="webhook_secret_wrong",
            setting=setting,
        )
    return secrets


def account_twice(account: str, one: Access, other: Access) -> SettingsError:
    """Say that two settings open one account."""
    return SettingsError(
        f"{one.opened_by} and {other.opened_by} both open {account}: unset one of them, or give one another account",
        code="account_twice",
        setting=other.opened_by,
        account=account,
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
        told = "; ".join(f"{_name(e['loc'])} {_said(e['type'], e['msg'])}" for e in error.errors())
        raise SettingsError(told, setting=_name(error.errors()[0]["loc"])) from None


def _said(kind: str, message: str) -> str:
    if kind != "extra_forbidden":
        return message.removeprefix("Value error, ")
    parts = ", ".join(name.upper() for name in AccountSettings.model_fields)
    return f"is no setting: an account has a name without two underscores in a row, and of {parts} what it needs"


# Variables that begin like ours and are none: tests take a server's address from one.
OTHERS = frozenset({"REFUNDRY_TEST_POSTGRES_URL"})


def given() -> dict[str, str]:
    """Tell the variables of ours that are set, with their values, secrets cut down to how they begin and end.

    Returns:
        By name, sorted; also those that are no setting (`unknown`).
    """
    ours = sorted(name for name in os.environ if name.startswith("REFUNDRY_") or name in _aliases())  # noqa: TID251  # this is the place that reads settings
    return {name: _masked(name, os.environ[name]) for name in ours if name not in OTHERS}  # noqa: TID251  # the same


def unknown() -> list[tuple[str, str]]:
    """Tell the variables that begin like ours and set nothing, each with the setting that was probably meant, or an empty text."""
    names = sorted(_names())
    lost = [name for name in given() if name.upper() not in names and not _of_account(name.upper())]
    return [(name, next(iter(get_close_matches(name.upper(), names, 1, cutoff=0.8)), "")) for name in lost]


def _names() -> set[str]:
    """Tell the names of all settings."""
    found = set(_aliases())
    for name, told in Settings.model_fields.items():
        inner = told.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= {_name((name, part)) for part in inner.model_fields}
        elif told.validation_alias is None:
            found.add(_name((name,)))
    return found


def _of_account(name: str) -> bool:
    """Tell whether a variable sets a part of a further account, whatever that is called."""
    match = re.fullmatch(r"REFUNDRY_ACCOUNTS__.+?__(\w+)", name)
    return match is not None and match[1].lower() in AccountSettings.model_fields


def _aliases() -> list[str]:
    aliases = (field.validation_alias for field in Settings.model_fields.values())
    return [str(choice) for alias in aliases if isinstance(alias, AliasChoices) for choice in alias.choices]


def _masked(name: str, value: str) -> str:
    """Cut a secret down to what tells it from others: the kind of a key, and its last four characters."""
    if not value.strip():
        return "(empty)"
    if name.upper().endswith(("_KEY", "_SECRET", "_SECRETS")) and not name.upper().endswith("ORDER_KEY"):
        kind = re.match(r"(?:sk|rk|pk)_(?:test|live)_|whsec_", value)
        return (kind[0] if kind else "") + "…" + (value[-4:] if len(value) >= SECRET_SHOWN_FROM else "")
    # The password of an address, in the two places where one can stand; up to the last @, since one may stand in it unescaped.
    value = re.sub(r"(?s)(?<=://)([^:/]*):.*@", r"\1:…@", value)
    if name.upper() == "REFUNDRY_ORDERS__URL":
        # Receivers that know no signatures tell who calls by a token there.
        value = re.sub(r"(?s)\?.+", "?…", value)
    # A key in a variable that holds several settings as JSON, or that is none of ours.
    value = re.sub(r"((?:sk|rk|pk)_(?:test|live)_|whsec_)\w+", r"\1…", value)
    return re.sub(r"(?i)(password=)[^&\s]*", r"\1…", value)


def _name(place: tuple[int | str, ...]) -> str:
    if place and str(place[0]).isupper():
        # An alias, which is the variable's own name.
        return str(place[0])
    return "REFUNDRY_" + "__".join(str(part).upper() for part in place)
