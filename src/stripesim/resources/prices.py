"""Products and prices, as far as subscriptions need them."""

from stripesim.call import Call
from stripesim.errors import refused
from stripesim.params import merged
from stripesim.registry import View, kind, route
from stripesim.resources.charges import METADATA, known_currency
from stripesim.store import Doc

PRODUCT = {
    "name": {"is": "str", "required": True},
    "active": "bool",
    "description": "str",
    "metadata": METADATA,
    "expand": {"list": "str"},
}
CHANGE_PRODUCT = PRODUCT | {"name": "str"}
PRICE = {
    "currency": {"is": "str", "required": True},
    "unit_amount": {"is": "int", "min": 0, "required": True},
    "product": "str",
    "product_data": {"hash": {"name": {"is": "str", "required": True}, "metadata": METADATA}},
    "recurring": {
        "hash": {
            "interval": {"enum": ["day", "month", "week", "year"], "required": True},
            "interval_count": {"is": "int", "min": 1},
        }
    },
    "active": "bool",
    "lookup_key": "str",
    "nickname": "str",
    "metadata": METADATA,
    "expand": {"list": "str"},
}
CHANGE_PRICE = {"active": "bool", "nickname": "str", "metadata": METADATA, "expand": {"list": "str"}}
LIST = {"limit": "int", "starting_after": "str", "ending_before": "str", "expand": {"list": "str"}}


@kind("product", "prod_")
def render_product(view: View, doc: Doc) -> Doc:
    """Show a product."""
    return {
        "object": "product",
        "active": True,
        "default_price": None,
        "description": None,
        "images": [],
        "marketing_features": [],
        "metadata": {},
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": doc["created"],
        "url": None,
        **doc,
        "livemode": view.livemode,
    }


@kind("price", "price_", "product")
def render_price(view: View, doc: Doc) -> Doc:
    """Show a price."""
    recurring = doc.get("recurring")
    shown = {"interval_count": 1, "meter": None, "usage_type": "licensed"} | recurring if recurring else None
    return {
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "custom_unit_amount": None,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        **doc,
        "livemode": view.livemode,
        "recurring": shown,
        "type": "recurring" if recurring else "one_time",
        "unit_amount_decimal": str(doc["unit_amount"]),
    }


@route("POST /v1/products", "product", parameters=PRODUCT)
def create_product(call: Call) -> Doc:
    """Create a product."""
    doc: Doc = {name: call.params[name] for name in ("name", "active", "description") if name in call.params}
    doc["metadata"] = merged({}, call.params.get("metadata"))
    call.world.add("product", call.scope, doc)
    call.world.emit(call.scope, "product.created", "product", doc)
    return call.show("product", doc)


@route("GET /v1/products", "product", parameters=LIST)
def list_products(call: Call) -> Doc:
    """List products."""
    return call.page("product", "/v1/products")


@route("GET /v1/products/{id}", "product")
def retrieve_product(call: Call) -> Doc:
    """Retrieve a product."""
    return call.show("product", call.need("product", call.path["id"]))


@route("POST /v1/products/{id}", "product", parameters=CHANGE_PRODUCT)
def update_product(call: Call) -> Doc:
    """Change a product."""
    doc = call.need("product", call.path["id"])
    doc |= {name: call.params[name] for name in ("name", "active", "description") if name in call.params}
    doc["metadata"] = merged(doc["metadata"], call.params.get("metadata"))
    call.world.save("product", doc)
    return call.show("product", doc)


@route("POST /v1/prices", "price", parameters=PRICE)
def create_price(call: Call) -> Doc:
    """Create a price, with a product of its own if need be."""
    params = call.params
    product = call.given("product", "product")
    if product is None:
        if "product_data" not in params:
            raise refused(
                "product",
                "You must specify either `product` or `product_data` when creating a price.",
                "parameter_missing",
            )
        made = call.world.add("product", call.scope, {"metadata": {}} | params["product_data"])
        product = made["id"]
    doc: Doc = {
        "currency": known_currency(params["currency"]),
        "product": product,
        "metadata": merged({}, params.get("metadata")),
    }
    doc |= {
        name: params[name]
        for name in ("unit_amount", "recurring", "active", "lookup_key", "nickname")
        if name in params
    }
    call.world.add("price", call.scope, doc)
    call.world.emit(call.scope, "price.created", "price", doc)
    return call.show("price", doc)


@route("GET /v1/prices", "price", parameters=LIST | {"product": "str"})
def list_prices(call: Call) -> Doc:
    """List prices."""
    return call.page("price", "/v1/prices", "product")


@route("GET /v1/prices/{price}", "price")
def retrieve_price(call: Call) -> Doc:
    """Retrieve a price."""
    return call.show("price", call.need("price", call.path["price"], param="price"))


@route("POST /v1/prices/{price}", "price", parameters=CHANGE_PRICE)
def update_price(call: Call) -> Doc:
    """Change a price."""
    doc = call.need("price", call.path["price"], param="price")
    doc |= {name: call.params[name] for name in ("active", "nickname") if name in call.params}
    doc["metadata"] = merged(doc["metadata"], call.params.get("metadata"))
    call.world.save("price", doc)
    return call.show("price", doc)
