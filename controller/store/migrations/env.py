"""Alembic runs this; the connection, already in a transaction, is the store's own."""

from alembic import context

from controller.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
context.run_migrations()
