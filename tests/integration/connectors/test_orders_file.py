"""Messages as JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from refundry.connectors.base import Delivered, NotDelivered
from refundry.connectors.orders_file.client import FileTarget, targets_of
from refundry.infra.settings import OrderSettings, SettingsError
from refundry.outbox.rules import envelope, outgoing
from tests.support.messages import message

pytestmark = pytest.mark.integration


async def test_each_message_is_a_line_at_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "told.jsonl"
    path.write_text("was here before\n")
    (target,) = targets_of(OrderSettings(file=str(path)))
    await target.open()
    for version in (1, 2):
        assert await target.deliver(outgoing(message(version=version))) == Delivered()
    lines = path.read_text().splitlines()
    assert lines[0] == "was here before"
    assert [json.loads(line) for line in lines[1:]] == [envelope(message(version=1)), envelope(message(version=2))]


async def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    target = FileTarget("-")
    await target.open()
    await target.deliver(outgoing(message()))
    await target.close()
    assert json.loads(capsys.readouterr().out)["id"] == message().id


async def test_standard_output_gets_utf_8_whatever_it_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    out.write("before\n")
    assert await FileTarget("-").deliver(outgoing(message("注文-1"))) == Delivered()
    before, line = out.buffer.getvalue().decode().splitlines()  # type: ignore[attr-defined]
    assert before == "before"
    assert json.loads(line) == envelope(message("注文-1"))


async def test_standard_output_that_nobody_reads_keeps_nothing_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is paid is written by threads too: a reader that has stopped must not have taken them all."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writes, b"full\n" * 1000):
            pass
    os.set_blocking(writes, True)
    with os.fdopen(reads, "rb") as reader, io.TextIOWrapper(os.fdopen(writes, "wb")) as out:
        monkeypatch.setattr("sys.stdout", out)
        target = FileTarget("-")
        # More than the threads that a loop has.
        some = [asyncio.create_task(target.deliver(outgoing(message(version=n)))) for n in range(40)]
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(asyncio.to_thread(int), 10)
        finally:
            reading = asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), reader.read)
            assert await asyncio.gather(*some) == [Delivered()] * 40
            out.close()
            await reading


async def test_a_file_that_cannot_be_written_stops_the_start_and_later_keeps_messages_waiting(tmp_path: Path) -> None:
    target = FileTarget(str(tmp_path / "no" / "told.jsonl"))
    with pytest.raises(SettingsError) as refused:
        await target.open()
    assert refused.value.code == "orders_file_unusable"
    assert isinstance(await target.deliver(outgoing(message())), NotDelivered)


async def test_a_line_that_did_not_fit_whole_is_taken_back_and_not_delivered(tmp_path: Path) -> None:
    path = tmp_path / "told.jsonl"
    target = FileTarget(str(path))
    await target.deliver(outgoing(message(version=1)))
    before, whole = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a disk with a hundred bytes left: a part of the line is written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, whole[1]))
    try:
        outcome = await target.deliver(outgoing(message(version=2)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, whole)
    assert outcome == NotDelivered(f"{path}: No space left on device")
    assert path.read_bytes() == before
    assert await target.deliver(outgoing(message(version=2))) == Delivered()
    assert [json.loads(line)["data"]["order_version"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("left", ["", '{"id":"half of a li', "whole\n"])
async def test_no_message_is_glued_to_what_a_crash_has_torn(tmp_path: Path, left: str) -> None:
    path = tmp_path / "told.jsonl"
    path.write_text(left)
    target = FileTarget(str(path))
    await target.open()
    assert path.read_text() == left
    for version in (1, 2):
        await target.deliver(outgoing(message(version=version)))
    *before, first, second = path.read_text().splitlines()
    assert before == left.splitlines()
    assert [json.loads(line) for line in (first, second)] == [envelope(message(version=version)) for version in (1, 2)]


async def test_messages_that_are_written_at_once_stand_in_lines_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "told.jsonl"
    targets = [FileTarget(str(path)) for _ in range(2)]
    messages = [message(f"o{order}") for order in range(100)]
    await asyncio.gather(*(targets[at % 2].deliver(outgoing(one)) for at, one in enumerate(messages)))
    told = {json.loads(line)["id"] for line in path.read_text().splitlines()}
    assert told == {one.id for one in messages}


def test_without_the_setting_there_is_no_such_target() -> None:
    assert targets_of(OrderSettings()) == ()
