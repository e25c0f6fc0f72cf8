"""One settings object, read at the edges (command line, main, worker); everyone else gets values as arguments."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

SHORTEST_ADMIN_KEY = 24
"""Characters: long enough that nobody guesses it, and that nobody takes a password for it."""


class Settings(BaseSettings):
    """Every setting is an environment variable PSHARELORA_<NAME>, or a line of `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="PSHARELORA_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: SecretStr | None = None
    """A PostgreSQL 15 or newer; without it an embedded server keeps its data under the data directory."""

    data_dir: Path = Path(".psharelora")
    """Where the embedded database, the demo's key and local files live."""

    cache_dir: Path | None = None
    """Where API processes keep copies of published models to share; by default `cache` in the data directory."""

    host: str = "127.0.0.1"
    """The address that `psharelora serve` listens on."""

    port: int = Field(default=8000, ge=1, le=65535)
    """The port that `psharelora serve` listens on."""

    workers: int = Field(default=1, ge=1, le=64)
    """How many API processes `psharelora serve` starts."""

    auth: Literal["keys", "off"] = "keys"
    """`off` answers everybody as an administrator; refused on any address but loopback."""

    admin_key: SecretStr | None = None
    """A bootstrap key with every scope, at least 24 characters; better made once by `psharelora keys create`."""

    requests_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """What a key without a limit of its own may ask of each API process; unlimited if absent."""

    database_pool_size: int = Field(default=10, ge=1, le=200)
    """Database connections an API process keeps at most."""

    compute_threads: int = Field(default=2, ge=1, le=64)
    """Threads for scoring, fold-ins and planning in an API process."""

    plan_seconds: float = Field(default=2.0, gt=0, le=60)
    """Time that a robust policy may take; then the best certified policy so far is answered with its gap."""

    plan_tolerance: float = Field(default=1e-4, gt=0, lt=1)
    """Relative gap at which a robust policy counts as solved."""

    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    """Largest request body, imports excepted; of an environment's definition, eight times that."""

    body_seconds: float = Field(default=60.0, gt=0)
    """How long a request's body may take to come (a definition's, eight times that); of an import, each piece of it."""

    max_items: int = Field(default=1_000_000, ge=1)
    """Items that a catalogue may have; retired ones do not count."""

    schedule_seconds: float = Field(default=5.0, gt=0)
    """How often the worker looks for environments that are due for a refit."""

    stalled_seconds: float = Field(default=30.0, gt=0)
    """A worker not heard of for this long is taken for dead, and its job is taken up again."""

    metrics_dir: Path | None = None
    """Where API processes of one host keep their counts, so that each answers /metrics for all; with several workers
    `psharelora serve` makes a temporary one."""

    worker_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """A port on which `psharelora worker` answers /metrics, on PSHARELORA_HOST; without it, it listens nowhere."""

    tracing: Literal["off", "on"] = "off"
    """`on` sends OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says; needs `psharelora[tracing]`."""

    embeddings_api_key: SecretStr | None = None
    """Bearer token for environments whose encoder is an embeddings endpoint."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe events that are logged."""

    log_format: Literal["json", "console"] = "console"
    """One JSON object a line, or lines for people."""

    @property
    def caches(self) -> Path:
        """The folder that the processes of a host share."""
        return self.cache_dir or self.data_dir / "cache"

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and urlsplit(value.get_secret_value()).scheme not in {"postgresql", "postgres"}:
            raise ValueError("an address such as postgresql://user:password@host:5432/name was expected.")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        """A service that is open to anyone is refused before it listens."""
        if self.auth == "off" and self.host not in LOOPBACK:
            raise ValueError(
                f"PSHARELORA_AUTH=off answers everybody as an administrator, so it is refused on {self.host}: listen "
                "on 127.0.0.1, or leave authentication on."
            )
        if self.admin_key is not None and len(self.admin_key.get_secret_value()) < SHORTEST_ADMIN_KEY:
            raise ValueError(
                f"PSHARELORA_ADMIN_KEY has {len(self.admin_key.get_secret_value())} characters; it must have at least "
                f"{SHORTEST_ADMIN_KEY}."
            )
        return self
