"""What can be set from outside: the home, and a few numbers."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings from arguments, else from KPS_* in the environment, else the defaults."""

    model_config = SettingsConfigDict(env_prefix="KPS_", frozen=True, extra="forbid")

    home: Path = Field(default_factory=lambda: Path.home() / ".local/share/kps")
    deadline_seconds: int = Field(default=60, ge=5, le=3600)  # of the agent: silence longer than this undoes
    connect_timeout_seconds: float = Field(default=10, gt=0, le=300)
    lease_seconds: float = Field(default=30, ge=2, le=600)  # a task whose process is not heard for longer is interrupted
    concurrency: int = Field(default=32, ge=1, le=1000)  # servers worked on at the same time

    @property
    def database(self) -> Path:
        return self.home / "kps.db"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def root_key(self) -> Path:
        return self.home / "root.key"

    @property
    def socket(self) -> Path:
        return self.home / "kps.sock"
