"""Customer master keys of every kind: a row for the key, one for each version's material, and what belongs to a key."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_LIVING = sa.text("state <> 'destroyed'")


def upgrade() -> None:
    before = sa.table(
        "master_keys",
        *(sa.column(name) for name in ("key_id", "version", "tenant_id", "alias", "wrapped", "root_check", "created_at")),
    )
    op.create_table(
        "new_master_keys",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("usage", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("default", sa.Boolean(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=True),
        sa.Column("deletes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rotates_every", sa.Integer(), nullable=True),
        sa.Column("rotation_days", sa.Integer(), nullable=False),
        sa.Column("rotation_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rotations", sa.Integer(), nullable=False),
        sa.Column("material_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("material_digest", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    keys = sa.table(
        "new_master_keys",
        *(sa.column(name) for name in ("id", "tenant_id", "alias", "created_at", "spec", "usage", "origin", "state")),
        *(sa.column(name) for name in ("default", "description", "version", "rotation_days", "rotations")),
    )
    # Until now every one was a default key: ENCRYPT_DECRYPT under AES-256, and enabled.
    first = sa.select(
        before.c.key_id, sa.func.max(before.c.tenant_id), sa.func.max(before.c.alias), sa.func.min(before.c.created_at),
        sa.literal("AES_256"), sa.literal("ENCRYPT_DECRYPT"), sa.literal("kms"), sa.literal("enabled"),
        sa.true(), sa.literal(""), sa.func.max(before.c.version), sa.literal(365), sa.func.max(before.c.version) - 1,
    ).group_by(before.c.key_id)  # fmt: skip
    op.execute(keys.insert().from_select([column.name for column in keys.columns], first))
    op.create_table(
        "new_master_key_versions",
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("root_check", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["new_master_keys.id"]),
        sa.PrimaryKeyConstraint("key_id", "version"),
    )
    names = ["key_id", "version", "tenant_id", "wrapped", "root_check", "created_at"]
    versions = sa.table("new_master_key_versions", *(sa.column(name) for name in names))
    op.execute(versions.insert().from_select(names, sa.select(*(before.c[name] for name in names))))
    op.drop_table("master_keys")
    op.rename_table("new_master_keys", "master_keys")
    op.rename_table("new_master_key_versions", "master_key_versions")
    op.create_index(
        "master_keys_by_alias", "master_keys", ["tenant_id", "alias"],
        unique=True, sqlite_where=_LIVING, postgresql_where=_LIVING,
    )  # fmt: skip
    _belongings()


def _belongings() -> None:
    op.create_table(
        "master_key_aliases",
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["master_keys.id"]),
        sa.PrimaryKeyConstraint("tenant_id", "alias"),
    )
    op.create_index(op.f("ix_master_key_aliases_key_id"), "master_key_aliases", ["key_id"])
    op.create_table(
        "master_key_tags",
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["master_keys.id"]),
        sa.PrimaryKeyConstraint("key_id", "tag"),
    )
    op.create_table(
        "master_key_grants",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("grantee", sa.String(length=64), nullable=False),
        sa.Column("operations", sa.JSON(), nullable=False),
        sa.Column("issuer", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("retiring", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["master_keys.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_master_key_grants_key_id"), "master_key_grants", ["key_id"])
    op.create_table(
        "import_tokens",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["master_keys.id"]),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index(op.f("ix_import_tokens_key_id"), "import_tokens", ["key_id"])
