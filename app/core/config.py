"""Settings: read once from `SECATEUR_*` at an entry point, then handed down."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Device = Literal["cpu", "cuda"]


class Settings(BaseSettings):
    """Embedded mode is the default; other URLs make it the scaled deployment, nothing else differs."""

    model_config = SettingsConfigDict(env_prefix="SECATEUR_", frozen=True, extra="ignore")

    data_dir: Path = Path("secateur-data")
    database_url: str = ""
    broker_url: str = ""
    store_url: str = ""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    allow_anonymous_network: bool = False

    max_upload_bytes: int = Field(default=2 * 1024**3, ge=1)
    max_manifest_bytes: int = Field(default=64 * 1024, ge=1)
    max_queued_jobs: int = Field(default=10_000, ge=1)
    idempotency_ttl_s: int = Field(default=7 * 86_400, ge=60)
    sse_heartbeat_s: float = Field(default=15.0, gt=0)
    event_poll_s: float = Field(default=0.25, gt=0)

    # The lease outlasts several beats: one slow commit must not cost a running job its lease.
    lease_s: float = Field(default=15.0, gt=0)
    beat_s: float = Field(default=3.0, gt=0)
    sweep_s: float = Field(default=2.0, gt=0)
    hint_again_s: float = Field(default=30.0, gt=0)
    relay_poll_s: float = Field(default=0.2, gt=0)
    kill_grace_s: float = Field(default=10.0, ge=0)
    check_timeout_s: float = Field(default=300.0, gt=0)

    runner_threads: int = Field(default=1, ge=1)
    worker_slots: int = Field(default=1, ge=1)
    worker_device: Device = "cpu"

    @model_validator(mode="after")
    def _resolve_urls(self) -> Self:
        """Fill empty URLs with their place under the data folder, which becomes absolute."""
        set_ = object.__setattr__
        set_(self, "data_dir", self.data_dir.expanduser().resolve())
        if not self.database_url:
            set_(self, "database_url", f"sqlite:///{self.data_dir / 'secateur.db'}")
        if not self.store_url:
            set_(self, "store_url", f"file://{self.data_dir / 'store'}")
        if not self.broker_url:
            set_(self, "broker_url", f"filesystem://{self.data_dir / 'broker'}")
        return self

    @property
    def work_dir(self) -> Path:
        return self.data_dir / "work"


def make_settings(**given: object) -> Settings:
    """Read the environment; what is given and not None wins over it. Raises pydantic's ValidationError."""
    values = {name: value for name, value in given.items() if value is not None}
    return Settings(**values)  # type: ignore[arg-type]  # pydantic checks each value
