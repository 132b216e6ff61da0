"""What a measurement tells of the product is the product's own."""

from __future__ import annotations

from bench.product import product

MEGABYTES = 256


def test_the_memory_of_a_process_is_its_own_and_not_that_of_who_started_it() -> None:
    held = bytearray(b"x") * (MEGABYTES << 20)
    with product("http://127.0.0.1:9") as house:
        ended = house.run("--version")
    assert len(held) >> 20 == MEGABYTES
    assert 0 < ended.peak_megabytes < MEGABYTES
