"""Runs migrations on the connection handed over by `store.migrate`; there is no other way in."""

from __future__ import annotations

from alembic import context

from notifier.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    compare_type=True,
    # a partial index's text never comes back from PostgreSQL as it was written
    include_object=lambda obj, name, type_, reflected, compare_to: type_ != "check_constraint",
)
with context.begin_transaction():
    context.run_migrations()
