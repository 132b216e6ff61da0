"""The two servers of `bench.intake`: `python -m bench.intake_servers bare|product DATABASE` prints its port, and serves until it is ended."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import sys
import time

import sqlalchemy as sa
import uvicorn
from sqlalchemy.dialects import postgresql, sqlite
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from refundry import bootstrap
from refundry.inbox.model import Door
from refundry.infra import loop
from refundry.infra import settings as settings_of
from refundry.infra.db import Database, Unit
from refundry.infra.writer import GroupWriter
from refundry.kernel.clock import SystemClock
from refundry.web.listening import config_of
from refundry.web.webhooks import Intake

SECRET = "whsec_bench"  # noqa: S105  # opens nothing


def product(writer: GroupWriter) -> uvicorn.Config:
    """Serve webhooks as `refundry serve` does."""
    door = Door("acct_bench|test", (SECRET,), frozenset(), "STRIPE_WEBHOOK_SECRET")
    return config_of(Starlette(routes=Intake({"": door}, writer, SystemClock()).routes))


def bare(database: Database, writer: GroupWriter) -> uvicorn.Config:
    """Check the signature, and insert with group commit; no more."""
    table = sa.Table(
        "events", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("raw", sa.LargeBinary)
    )
    table.create(database.engine)
    make = (postgresql if database.postgres else sqlite).insert(table)
    insert = make.on_conflict_do_nothing(index_elements=["id"])
    database.at_commit("events", lambda unit, entries: unit.connection.execute(insert, entries) and None)

    async def take(request: Request) -> Response:
        body = await request.body()
        parts = dict(part.split("=", 1) for part in request.headers["stripe-signature"].split(","))
        sign = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(sign, parts["v1"]) or abs(time.time() - int(parts["t"])) > 300:
            return Response(status_code=400)
        row = {"id": json.loads(body)["id"], "raw": body}

        def keep(unit: Unit) -> None:
            unit.collect("events", row)

        await writer.put(keep)
        return Response(b"{}", media_type="application/json")

    app = Starlette(routes=[Route("/webhooks/stripe", take, methods=["POST"])])
    return uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")


async def serve(kind: str, url: str) -> None:
    """Serve until the process is ended."""
    database = bootstrap.database_of(settings_of.read(database_url=url), SystemClock())
    writer = GroupWriter(database)
    writer.start()
    config = bare(database, writer) if kind == "bare" else product(writer)
    sock = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(sock.getsockname()[1], flush=True)
    await uvicorn.Server(config).serve(sockets=[sock])


if __name__ == "__main__":
    loop.run(serve(sys.argv[1], sys.argv[2]))
