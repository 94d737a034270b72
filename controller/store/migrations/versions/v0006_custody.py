"""Key pairs in custody: which customer master key each is sealed under."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# Where a sealed record names its master key (controller/kms/envelope.py).
KEY_ID = slice(5, 21)


def upgrade() -> None:
    op.add_column("keypairs", sa.Column("master_key_id", sa.String(length=36), nullable=True))
    op.create_index(op.f("ix_keypairs_master_key_id"), "keypairs", ["master_key_id"], unique=False)
    table = sa.table("keypairs", sa.column("id"), sa.column("sealed"), sa.column("master_key_id"))
    connection = op.get_bind()
    found = connection.execute(sa.select(table.c.id, table.c.sealed).where(table.c.sealed.is_not(None))).all()
    for keypair_id, sealed in found:
        named = sealed[KEY_ID]
        if len(named) == 16:
            key_id = str(uuid.UUID(bytes=named))
            connection.execute(table.update().where(table.c.id == keypair_id).values(master_key_id=key_id))
