"""How alembic reaches the database: one connection, handed over by server/migrate.py."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
