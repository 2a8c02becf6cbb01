"""The id of the installation, which its store is marked with"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installations",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.CheckConstraint("number = 1", name=op.f("ck_installations_number")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_installations")),
    )


def downgrade() -> None:
    op.drop_table("installations")
