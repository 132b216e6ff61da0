"""The test card numbers are numbers that a card could have, and each name leads to its card."""

import pytest

from stripesim import cards

pytestmark = pytest.mark.unit


def fits(number: str) -> bool:
    """Tell whether the last digit is the one that the others ask for (ISO/IEC 7812-1)."""
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


@pytest.mark.parametrize("number", cards.CARDS)
def test_every_test_card_has_its_check_digit(number: str) -> None:
    assert fits(number)
    assert number.endswith(cards.CARDS[number].last4)


def test_the_other_spelling_of_the_card_for_several_disputes_is_a_misprint() -> None:
    # Both spellings are seen in public copies (stripe-facts 11).
    assert "4000000404000079" in cards.CARDS
    assert not fits("4000004040000079")


def test_every_card_is_found_by_both_kinds_of_token() -> None:
    for means in cards.CARDS.values():
        assert cards.by_token(f"pm_card_{means.name}") is means
        assert cards.by_token(f"tok_{means.name}") is means
    assert cards.by_token("pm_card_sepa_debit") is None
