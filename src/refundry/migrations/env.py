"""Run by alembic, on the connection that `upgrade` hands over."""

from alembic import context

from refundry.infra.db import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
context.run_migrations()
