"""Charges of a time window, by several lists at once: a list is a call after the other, and a page of a hundred takes Stripe its time.

Each list reads the next part of the window, newest first, as long as some pages are at the density of charges that was seen so far; what
is older is left to whoever is free next. So a window whose beginning is the account's own is split well too, and one of a few pages costs
a call more at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

from refundry.gateways.base import Look

# So many pages are asked for at once, or wait to be mirrored.
LISTS = 8
# A part's last page may show charges of the next part too: one call in so many is made for nothing at most, where charges are even. The
# first parts are shorter, each twice as long as the one before, so that a window of a few hundred charges is not one list.
PART_PAGES_FIRST, PART_PAGES = 4, 20
# Stripe dates charges by the second; in a burst, shorter parts would show the same charges again and again.
PART_SECONDS = 60.0
# Parts overlap by so much. Stripe lists newest first, and does not promise that this is by the second that it tells of a charge: one that
# two parts both take for the other's would be an order with two charges of which one is known.
APART_SECONDS = 10.0

Pages = Callable[[float, float], AsyncGenerator[Sequence[Look], None]]


class Listing:
    """One walk over a time window.

    Args:
        pages: Lists the charges between two moments (epoch seconds, both included), page by page, newest first.
        since: From when.
        until: To when.
    """

    def __init__(self, pages: Pages, since: float, until: float) -> None:
        """Begin with the whole window."""
        self._pages = pages
        self._since = since
        # What nobody lists yet was created by then; `None`, once there is no such thing.
        self._rest: float | None = until
        self._turn = asyncio.Lock()
        self._seen_pages, self._seen_seconds = 0, 0.0
        self._part_pages = PART_PAGES_FIRST
        self._told = asyncio.Queue[Sequence[Look] | None]()
        self._room = asyncio.Semaphore(LISTS)

    async def walk(self) -> AsyncGenerator[Sequence[Look], None]:
        """Tell every charge of the window, some of them twice, in no certain order; who stops before the end closes it.

        Raises:
            Exception: What listing raised; what was told by then is not all.
        """
        lists = asyncio.get_running_loop().create_task(self._all())
        try:
            while (page := await self._told.get()) is not None:
                self._room.release()
                yield page
            await lists
        finally:
            lists.cancel()
            await asyncio.gather(lists, return_exceptions=True)

    async def _all(self) -> None:
        lists = [asyncio.get_running_loop().create_task(self._parts()) for _ in range(LISTS)]
        try:
            await asyncio.gather(*lists)
        finally:
            for one in lists:
                one.cancel()
            await asyncio.gather(*lists, return_exceptions=True)
            self._told.put_nowait(None)

    async def _parts(self) -> None:
        """List part after part, until there is no rest."""
        while self._rest is not None:
            await self._part()

    async def _part(self) -> None:
        async with AsyncExitStack() as closed:
            async with self._turn:
                if self._rest is None:
                    return
                pages = await closed.enter_async_context(aclosing(self._pages(self._since, self._rest)))
                # That there is a second page tells that there may be more, and saves a call for nothing where a window has few charges.
                first, last = await self._next(pages), await self._next(pages)
                end = self._split(first, last) if first and last else None
                self._rest = None if end is None else end + APART_SECONDS
            # An empty page is not the end: what lists says that it should not be.
            while last is not None and not (end is not None and last and last[-1].charge.created_at <= end):
                last = await self._next(pages)

    async def _next(self, pages: AsyncGenerator[Sequence[Look], None]) -> Sequence[Look] | None:
        """Tell the next page to who walks; `None` after the last."""
        await self._room.acquire()
        page = await anext(pages, None)
        if page is None:
            self._room.release()
        else:
            self._told.put_nowait(page)
        return page

    def _split(self, first: Sequence[Look], second: Sequence[Look]) -> float | None:
        """Tell by when what is left to others was created, after the first pages of a part; `None`, if nothing is left."""
        oldest = second[-1].charge.created_at
        self._seen_pages += 2
        self._seen_seconds += first[0].charge.created_at - oldest
        part = self._part_pages * self._seen_seconds / self._seen_pages
        self._part_pages = min(2 * self._part_pages, PART_PAGES)
        left = float(int(oldest - max(part, PART_SECONDS)))
        return left if left >= self._since else None
