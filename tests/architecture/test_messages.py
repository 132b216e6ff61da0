"""Messages are told as they are: every schema that is shipped and every table of the reference page is what the fields say."""

import pytest

from refundry.outbox.model import ENVELOPE_FIELDS, Field, Kind, fields_of
from tests.architecture import house
from tests.support import message_schemas

pytestmark = pytest.mark.architecture
PAGE = house.ROOT / "docs" / "reference" / "messages.md"


def told(name: str, field: Field) -> list[str]:
    words = f": `{'`, `'.join(field.words)}`" if field.words else ""
    return [f"`{name}`", " or ".join(field.types), field.text + words]


@pytest.mark.parametrize("kind", Kind)
def test_the_schema_that_is_shipped_is_that_of_the_fields(kind: Kind) -> None:
    assert message_schemas.kept(kind) == message_schemas.schema_of(kind), (
        "python -m tests.support.message_schemas writes them"
    )


def test_there_is_a_schema_for_each_kind_and_no_other() -> None:
    assert {path.stem for path in message_schemas.FOLDER.iterdir()} == {kind.value for kind in Kind}


def test_the_reference_page_tells_every_kind() -> None:
    told = house.named(house.section(PAGE.read_text(), "Kinds"))
    assert told == [kind.value for kind in Kind]


@pytest.mark.parametrize(
    ("title", "kind"), [("Payload of a refund request", Kind.SETTLED), ("Payload of an order", Kind.ORDER_CHANGED)]
)
def test_the_reference_page_tells_every_field_as_it_is(title: str, kind: Kind) -> None:
    rows = house.rows(house.section(PAGE.read_text(), title))
    assert rows == [told(name, field) for name, field in fields_of(kind).items()]


def test_the_reference_page_tells_the_envelope_as_it_is() -> None:
    rows = house.rows(house.section(PAGE.read_text(), "Envelope"))
    assert rows == [told(name, field) for name, field in ENVELOPE_FIELDS.items()]
