"""Stripe's refusals: one class, and one function for each text that several routes share.

The texts are Stripe's own, word for word, where a recording or its documentation has them; the others are marked in
`docs/design/simulator.md`. Null attributes are left out of the body, and `doc_url` comes only with a `code`.
"""

from typing import Any

Json = dict[str, Any]


class StripeError(Exception):
    """An answer that is not 2xx.

    Args:
        status: The HTTP status.
        message: Stripe's text.
        code: Stripe's stable code, if the error has one. The over-refund, for one, has none.
        param: The parameter that it complains of.
        kind: One of the four wire types.
        stored: Whether the idempotency layer keeps this answer; false for what is refused before execution begins.
        effects: Whether what the call did before it was refused stays: a declined charge does.
        headers: Further headers of the answer.
        extra: Further attributes of the error.
    """

    def __init__(  # an error has that many parts on the wire
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        stored: bool = True,
        effects: bool = False,
        headers: dict[str, str] | None = None,
        extra: Json | None = None,
    ) -> None:
        """Keep the parts; the body is built when the request's id is known."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.stored = stored
        self.effects = effects
        self.headers = headers or {}
        self.error: Json = {"message": message, "type": kind, **(extra or {})}
        if param is not None:
            self.error["param"] = param
        if code is not None:
            self.error["code"] = code
            self.error["doc_url"] = "https://stripe.com/docs/error-codes/" + code.replace("_", "-")

    def body(self) -> Json:
        """Shape the answer's body, attributes in alphabetical order as on the wire."""
        return {"error": dict(sorted(self.error.items()))}


class ConnectionLost(Exception):  # noqa: N818  # it is what the client sees, not an error of ours
    """The connection ends without a full answer. Raised where there is no socket to cut: in-process callers."""


def missing(noun: str, object_id: str, *, param: str, status: int = 404, other_mode: bool | None = None) -> StripeError:
    """Build `resource_missing`.

    Args:
        noun: The object's name as Stripe's text has it: `charge`, `payment_intent`.
        object_id: The id that was asked for.
        param: The parameter that held it.
        status: 404 for an id in the path or of the main object, 400 for one in a list's filter or cursor.
        other_mode: The livemode of the world where such an object does exist, if it is the other one.
    """
    text = f"No such {noun}: '{object_id}'"
    if other_mode is not None:
        there, here = ("live", "test") if other_mode else ("test", "live")
        text += f"; a similar object exists in {there} mode, but a {here} mode key was used to make this request."
    return StripeError(status, text, code="resource_missing", param=param)


def refused(param: str | None, message: str, code: str | None = None) -> StripeError:
    """Build a parameter's refusal; it comes before execution, so the idempotency layer forgets it."""
    return StripeError(400, message, code=code, param=param, stored=False)


def internal(status: int = 500) -> StripeError:
    """Build the 500 that stands for Stripe's own trouble, or another of its kin (docs.stripe.com/api/errors)."""
    return StripeError(
        status,
        "An unknown error occurred. If the problem persists, please contact us at https://support.stripe.com/.",
        kind="api_error",
    )


def rate_limited(reason: str, *, coded: bool = True) -> StripeError:
    """Build a limiter's 429; `reason` is the value of `Stripe-Rate-Limited-Reason`; its body's code is unverified."""
    return StripeError(
        429,
        "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits.",
        code="rate_limit" if coded else None,
        stored=False,
        headers={"Stripe-Rate-Limited-Reason": reason},
    )


def lock_timeout() -> StripeError:
    """Build the 429 for an object that another request holds; it carries no reason header, but may be retried."""
    return StripeError(
        429,
        "This object cannot be accessed right now because another API request or Stripe process is currently accessing "
        "it. If you see this error intermittently, retry the request. If you see this error frequently and are making "
        "multiple concurrent requests to a single object, make your requests serially or at a lower rate.",
        code="lock_timeout",
        stored=False,
        headers={"Stripe-Should-Retry": "true"},
    )
