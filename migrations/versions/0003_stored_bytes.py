"""What the store holds, and for whom"""

import sqlalchemy as sa
from alembic import op

from app.core.db import UtcDateTime, now_plus
from app.core.tables import Json

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    blobs = op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("touches", sa.BigInteger(), nullable=False),
        sa.Column("touched_at", UtcDateTime(), server_default=now_plus(), nullable=False),
        sa.CheckConstraint(
            "state IN ('present', 'deleting', 'damaged', 'missing')", name=op.f("ck_blobs_state")
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_index("ix_blobs_touched", "blobs", ["touched_at"], unique=False)
    sizes = _sizes_by_digest(op.get_bind())
    rows = [
        {"sha256": sha256, "size_bytes": size, "state": "present", "touches": 0}
        for sha256, size in sorted(sizes.items())
    ]
    op.bulk_insert(blobs, rows)


def downgrade() -> None:
    op.drop_index("ix_blobs_touched", "blobs")
    op.drop_table("blobs")


def _sizes_by_digest(connection: sa.Connection) -> dict[str, int]:
    """Read what rows of the version before speak of; bytes of no row are found by the collector."""
    sizes: dict[str, int] = {}
    for name in ("models", "datasets"):
        table = sa.table(name, sa.column("files", Json))
        for row in connection.execute(sa.select(table.c.files)):
            sizes |= {file["sha256"]: file["size_bytes"] for file in row.files.values()}
    artifacts = sa.table("artifacts", sa.column("sha256"), sa.column("size_bytes"))
    for row in connection.execute(sa.select(artifacts.c.sha256, artifacts.c.size_bytes)):
        sizes[row.sha256] = row.size_bytes
    return sizes
