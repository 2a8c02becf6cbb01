"""Settings: read once from `SECATEUR_*` at an entry point, then handed down."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.addresses import SendingRules, is_loopback

Device = Literal["cpu", "cuda"]
Host = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\s/:]+)$")]


class Settings(BaseSettings):
    """Embedded mode is the default; other URLs make it the scaled deployment, nothing else differs."""

    model_config = SettingsConfigDict(
        env_prefix="SECATEUR_", frozen=True, extra="ignore", populate_by_name=True
    )

    data_dir: Path = Path("secateur-data")
    database_url: str = ""
    broker_url: str = ""
    store_url: str = ""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    allow_anonymous_network: bool = False
    # Beside those of this machine, without ports; None is any where `host` is reached by other machines.
    allowed_hosts: list[Host] | None = None
    # What is not there at the start is asked again for so long, before the process says so and ends.
    start_wait_s: float = Field(default=5.0, ge=0)
    # SIGTERM: so long may requests that run, and callbacks that are being sent, take to their end.
    shutdown_grace_s: int = Field(default=20, ge=0)

    max_upload_bytes: int = Field(default=2 * 1024**3, ge=1)
    max_manifest_bytes: int = Field(default=64 * 1024, ge=1)
    max_queued_jobs: int = Field(default=10_000, ge=1)
    idempotency_ttl_s: int = Field(default=7 * 86_400, ge=60)
    sse_heartbeat_s: float = Field(default=15.0, gt=0)
    event_poll_s: float = Field(default=0.25, gt=0)
    # A scrape reads the database at most this often, however many scrape.
    metrics_cache_s: float = Field(default=5.0, ge=0)

    # The lease outlasts several beats: one slow commit must not cost a running job its lease.
    lease_s: float = Field(default=15.0, gt=0)
    beat_s: float = Field(default=3.0, gt=0)
    sweep_s: float = Field(default=2.0, gt=0)
    hint_again_s: float = Field(default=30.0, gt=0)
    relay_poll_s: float = Field(default=0.2, gt=0)
    kill_grace_s: float = Field(default=10.0, ge=0)
    # Generous: some stages count no steps, and a slow disk is no reason to kill what works.
    stall_timeout_s: float = Field(default=3600.0, gt=0)
    backoff_first_s: float = Field(default=5.0, ge=0)
    backoff_most_s: float = Field(default=600.0, ge=0)
    # Workers also look for themselves: a broker that is deaf costs time and nothing else.
    worker_poll_s: float = Field(default=15.0, gt=0)
    checkpoint_ttl_s: float = Field(default=7 * 86_400.0, ge=0)
    check_timeout_s: float = Field(default=300.0, gt=0)
    # How often a worker looks for work folders of jobs that have ended.
    scratch_sweep_s: float = Field(default=60.0, gt=0)

    # Standard Webhooks: an answer counts that comes within 15 s.
    webhook_timeout_s: float = Field(default=15.0, gt=0)
    webhook_connections: int = Field(default=32, ge=1)
    webhook_ports: list[int] = Field(default=[443, 8443])
    webhook_allow_loopback: bool = False
    webhook_ca_file: Path | None = None

    runner_threads: int = Field(default=1, ge=1)
    worker_slots: int = Field(default=1, ge=1)
    worker_device: Device = "cpu"
    worker_gpus: list[int] = Field(default=[0], min_length=1)
    worker_takes_cpu_jobs: bool = True
    # What all workers together have; a job for another device is refused then, where it would wait for ever.
    devices: list[Device] | None = Field(default=None, min_length=1)
    # Where relay and worker show that they are alive; data_dir/pulse unless something else is given.
    pulse_dir: Path = Path()
    # For tests alone: the module started for each job, which speaks worker.protocol as worker.runner does.
    runner_module: str = Field(default="worker.runner", pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$")
    worker_cache_bytes: int = Field(default=20 * 1024**3, ge=0)

    # For s3://bucket/prefix. Without an endpoint it is AWS; without keys, obstore looks for a role of this
    # machine, and downloads go through the API because nothing can be signed.
    store_s3_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/]+/?$")
    store_s3_public_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/]+/?$")
    store_s3_region: str = Field(
        default="us-east-1", validation_alias=AliasChoices("SECATEUR_STORE_S3_REGION", "AWS_REGION")
    )
    store_s3_access_key_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("SECATEUR_STORE_S3_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
    )
    store_s3_secret_access_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("SECATEUR_STORE_S3_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
    )
    store_s3_session_token: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("SECATEUR_STORE_S3_SESSION_TOKEN", "AWS_SESSION_TOKEN")
    )
    store_s3_timeout_s: float = Field(default=30.0, gt=0)
    store_s3_retry_s: float = Field(default=60.0, gt=0)
    # Bytes that nothing speaks of are kept for as long: an upload is in the store before its row commits.
    store_grace_s: float = Field(default=3600.0, ge=0)
    download_redirect_bytes: int = Field(default=8 * 1024**2, ge=0)
    download_url_ttl_s: int = Field(default=900, ge=1, le=604_800)

    @model_validator(mode="after")
    def _resolve_urls(self) -> Self:
        """Fill empty URLs with their place under the data folder, which becomes absolute."""
        set_ = object.__setattr__
        set_(self, "data_dir", self.data_dir.expanduser().resolve())
        if self.pulse_dir == Path():
            set_(self, "pulse_dir", self.data_dir / "pulse")
        if not self.database_url:
            set_(self, "database_url", f"sqlite:///{self.data_dir / 'secateur.db'}")
        if not self.store_url:
            set_(self, "store_url", f"file://{self.data_dir / 'store'}")
        if not self.broker_url:
            set_(self, "broker_url", f"filesystem://{self.data_dir / 'broker'}")
        return self

    @model_validator(mode="after")
    def _keeps_loopback_for_one_machine(self) -> Self:
        """Whoever can use the service could reach what listens on this machine alone."""
        if self.webhook_allow_loopback and not is_loopback(self.host):
            raise ValueError(
                "webhook_allow_loopback is for a service that only this machine reaches: "
                "turn it off, or set SECATEUR_HOST to 127.0.0.1"
            )
        return self

    @property
    def sending_rules(self) -> SendingRules:
        """Where webhooks may lead."""
        return SendingRules(ports=self.webhook_ports, loopback=self.webhook_allow_loopback)

    @model_validator(mode="after")
    def _refuse_half_a_key(self) -> Self:
        if (self.store_s3_access_key_id is None) != (self.store_s3_secret_access_key is None):
            raise ValueError("store_s3: expected access_key_id and secret_access_key, found only one of them")
        return self

    @property
    def work_dir(self) -> Path:
        return self.data_dir / "work"

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "cache"


def make_settings(**given: object) -> Settings:
    """Read the environment; what is given and not None wins over it. Raises pydantic's ValidationError."""
    values = {name: value for name, value in given.items() if value is not None}
    return Settings(**values)  # type: ignore[arg-type]  # pydantic checks each value
