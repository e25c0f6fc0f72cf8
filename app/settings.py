"""One settings object, read at the edges (command line, main, worker); everyone else gets values as arguments."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting is an environment variable PSHARELORA_<NAME>, or a line of `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="PSHARELORA_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    database_url: SecretStr | None = None
    """A PostgreSQL 15 or newer; without it an embedded server keeps its data under the data directory."""

    data_dir: Path = Path(".psharelora")
    """Where the embedded database, the demo's key and local files live."""

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

    database_pool_size: int = Field(default=10, ge=1, le=200)
    """Database connections an API process keeps at most."""

    compute_threads: int = Field(default=2, ge=1, le=64)
    """Threads for scoring, fold-ins and planning in an API process."""

    plan_seconds: float = Field(default=2.0, gt=0, le=60)
    """Time that a robust policy may take; then the best certified policy so far is answered with its gap."""

    plan_tolerance: float = Field(default=1e-4, gt=0, lt=1)
    """Relative gap at which a robust policy counts as solved."""

    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    """Largest request body, imports excepted."""

    schedule_seconds: float = Field(default=5.0, gt=0)
    """How often the worker looks for environments that are due for a refit."""

    stalled_seconds: float = Field(default=30.0, gt=0)
    """A worker not heard of for this long is taken for dead, and its job is taken up again."""

    embeddings_api_key: SecretStr | None = None
    """Bearer token for environments whose encoder is an embeddings endpoint."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe events that are logged."""

    log_format: Literal["json", "console"] = "console"
    """One JSON object a line, or lines for people."""
