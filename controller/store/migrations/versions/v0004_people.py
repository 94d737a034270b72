"""Users, their keys and their limits."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("account_keypairs_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("users", sa.Column("kind", sa.Text(), nullable=False, server_default="local"))
    op.add_column("users", sa.Column("external_id", sa.Text(), nullable=True))
    op.add_column("users", sa.Column("enabled", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("users", sa.Column("source_networks", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("users", sa.Column("created_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("users", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("users_by_external_id", "users", ["tenant_id", "external_id"], unique=True)
    op.add_column("access_keys", sa.Column("enabled", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("access_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("access_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    # Of what was asked before there was more than one user nobody knows which key pairs it names.
    op.add_column("tasks", sa.Column("private", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.create_table(
        "quotas",
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("most", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", "name"),
    )
    # Who has made account key pairs already need not ask an administrator again.
    op.execute(
        "UPDATE tenants SET account_keypairs_since = "
        "(SELECT MIN(created_at) FROM keypairs WHERE keypairs.tenant_id = tenants.id AND scope = 'account')"
    )
    # Whose home it is was told by an access key, which now can be replaced.
    owners = op.get_bind().execute(
        sa.text("SELECT user_id, project_id FROM access_keys JOIN home ON home.access_key = access_keys.access_key")
    )
    owner = owners.first()
    op.drop_table("home")
    home = op.create_table(
        "home",
        sa.Column("one", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.CheckConstraint("one = 1", name="home_is_one"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("one"),
    )
    if owner is not None:
        op.bulk_insert(home, [{"one": 1, "user_id": owner.user_id, "project_id": owner.project_id}])
