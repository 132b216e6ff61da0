"""What is sent to whom, under which id, and when it is tried again."""

import pytest

from refundry.infra.settings import OrderSettings
from refundry.outbox.model import Kind, KindUnknown
from refundry.outbox.rules import BACK_OFF_MAX, back_off, kinds_of, message_id, moment, ordering_key, parameters_of
from refundry.refunds.model import State

pytestmark = pytest.mark.unit


def test_every_state_has_its_message() -> None:
    assert {kind.value for kind in Kind} == {
        *(f"refund_request.{state}" for state in State),
        "refund_request.held",
        "order.refunded_changed",
    }


def test_the_same_cause_has_the_same_id_and_another_has_another() -> None:
    one = message_id("r", Kind.SETTLED, 5)
    assert one == message_id("r", Kind.SETTLED, 5)
    assert (
        len({one, message_id("r", Kind.FAILED, 5), message_id("r", Kind.SETTLED, 6), message_id("q", Kind.SETTLED, 5)})
        == 4
    )


def test_messages_are_kept_in_order_by_order_and_without_one_by_charge() -> None:
    assert ordering_key("a|test", "o1", "ch_1") == ordering_key("a|test", "o1", "ch_2")
    assert ordering_key("a|test", "o1", "ch_1") != ordering_key("b|test", "o1", "ch_1")
    assert ordering_key("a|test", None, "o1") != ordering_key("a|test", "o1", "o1")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("all", 15),
        ("refund_request.*", 14),
        ("order.refunded_changed", 1),
        (" refund_request.settled, order.* ,", 2),
        ("", 0),
    ],
)
def test_kinds_are_named_one_by_one_by_stem_or_all(text: str, count: int) -> None:
    assert len(kinds_of(text, "SETTING")) == count


@pytest.mark.parametrize("text", ["settled", "refund_request", "refund_request.paid", "All", "order.*x"])
def test_a_kind_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(KindUnknown) as refused:
        kinds_of(f"all,{text}", "SETTING")
    assert refused.value.code == "message_kind_unknown"
    assert f"SETTING names {text}," in refused.value.message


def test_waits_double_and_end_at_an_hour_and_differ_between_messages() -> None:
    for tries in range(1, 60):
        whole = min(2.0 ** (tries - 1), BACK_OFF_MAX)
        waits = {back_off(tries, f"message-{at}") for at in range(50)}
        assert all(whole / 2 <= wait <= whole for wait in waits)
        assert len(waits) == 50


def test_the_tries_of_a_message_last_for_the_better_part_of_a_day() -> None:
    tries = OrderSettings().tries_max
    hours = [sum(back_off(number, f"message-{at}") for number in range(1, tries)) / 3600 for at in range(300)]
    assert 18 < min(hours) < max(hours) < 24
    assert 20.8 < sum(hours) / len(hours) < 21.4


def test_a_statement_may_name_what_is_no_list_and_no_object() -> None:
    order = parameters_of(Kind.ORDER_CHANGED)
    assert {"id", "kind", "order_id", "refunded", "refunded_minor"} <= order
    assert not {"data", "charges"} & order


def test_times_are_written_in_utc() -> None:
    assert moment(1_790_000_000.25) == "2026-09-21T14:13:20.250Z"
