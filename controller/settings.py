"""What can be set from outside: the home, and a few numbers."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from controller import addresses, storeplace
from controller.errors import Invalid
from controller.model import Quotas


class Settings(BaseSettings):
    """Settings from arguments, else from KPS_* in the environment, else the defaults."""

    model_config = SettingsConfigDict(env_prefix="KPS_", frozen=True, extra="forbid")

    home: Path = Field(default_factory=lambda: Path.home() / ".local/share/kps")
    # Where the root key is to be made by kps init, or how it is reached now, if not as it is on record in the home.
    root_key_uri: Annotated[str | None, BeforeValidator(lambda given: given or None)] = Field(
        default=None, validation_alias=AliasChoices("root_key_uri", "KPS_ROOT_KEY")
    )
    # Where what the controller knows is kept, if not as it is on record in the home.
    store_url: Annotated[str | None, BeforeValidator(lambda given: given or None)] = Field(
        default=None, validation_alias=AliasChoices("store_url", "KPS_DATABASE_URL")
    )
    deadline_seconds: int = Field(default=60, ge=5, le=3600)  # of the agent: silence longer than this undoes
    connect_timeout_seconds: float = Field(default=10, gt=0, le=300)
    lease_seconds: float = Field(default=30, ge=2, le=600)  # a task whose process is not heard for longer is interrupted
    access_log: Annotated[Path | None, BeforeValidator(lambda given: given or None)] = None  # None: stderr
    credential_hours: float = Field(default=24, gt=0, le=720)  # that what is given with an order is kept, sealed, if need be
    door_hours: float = Field(default=4, gt=0, le=24)  # that an emergency door may be open, in all
    # How somebody comes to a server's console, shown where nothing else gets in; {server}, {host}, {port} and {login} are put in.
    console_command: str = ""
    # Holds the token with which the metrics are read over the network; None: they are not.
    metrics_token_file: Annotated[Path | None, BeforeValidator(lambda given: given or None)] = None
    stop_seconds: float = Field(default=60, ge=0, le=3600)  # for tasks that run when the controller is told to stop
    jump_connections: int = Field(default=6, ge=1, le=100)  # at the same time, to each jump server; MaxStartups begins at 10
    requests_per_second: float = Field(default=20, gt=0, le=100_000)  # of each access key, in the long run
    requests_at_once: int = Field(default=200, ge=1, le=1_000_000)  # of each access key, after a pause
    failures_per_second: float = Field(default=2, gt=0, le=100_000)  # of each address: requests that are not let in
    failures_at_once: int = Field(default=100, ge=1, le=1_000_000)
    allow_networks: str = ""  # with commas: of which users may name addresses though they are the controller's own, or its link's
    serve_takes_tasks: bool = True  # of those that workers may run as well, where the store is PostgreSQL
    concurrency: int = Field(default=32, ge=1, le=1000)  # servers worked on at the same time
    # What holds where nobody has set a quota: of a user, and of a tenant.
    quota_private_keypairs: int = Field(default=1000, ge=0, le=1_000_000)
    quota_account_keypairs: int = Field(default=1000, ge=0, le=1_000_000)
    quota_users: int = Field(default=1000, ge=0, le=1_000_000)

    @classmethod
    def read(cls, home: Path) -> Self:
        """Return the settings with this home. Invalid(setting_unusable) names each variable that is wrong, and its range."""
        try:
            found = cls(home=home)
            addresses.networks(found.allow_networks, "KPS_ALLOW_NETWORKS")
            return found
        except ValidationError as error:
            names = dict.fromkeys(str(item["loc"][0]) for item in error.errors() if item["loc"])
            raise Invalid("setting_unusable", "; ".join(_may_be(name) for name in names)) from error

    @property
    def allowed_networks(self) -> list[addresses.Network]:
        """The networks of allow_networks."""
        return addresses.networks(self.allow_networks, "KPS_ALLOW_NETWORKS")

    @property
    def quotas(self) -> Quotas:
        """How much of what there may be, where nobody has set anything."""
        return Quotas(self.quota_private_keypairs, self.quota_account_keypairs, self.quota_users)

    @property
    def database(self) -> Path:
        """The file of the store, where it is one."""
        return self.home / storeplace.FILE

    @property
    def database_url(self) -> str:
        """Where the store is. Conflict(store_elsewhere), Unavailable(home_unusable)."""
        return storeplace.address_of(self.home, self.store_url)

    @property
    def in_file(self) -> bool:
        """Whether the store is a file in the home."""
        return self.store_url is None and storeplace.recorded(self.home) is None

    @property
    def root_key(self) -> Path:
        """Where the root key is made if nothing else is said."""
        return self.home / "root.key"

    @property
    def certificate(self) -> Path:
        return self.home / "tls.crt"

    @property
    def certificate_key(self) -> Path:
        return self.home / "tls.key"

    @property
    def socket(self) -> Path:
        return self.home / "kps.sock"


def _may_be(name: str) -> str:
    """Return what a variable may hold, for who has set it to something else."""
    field = Settings.model_fields[name]
    if field.annotation is bool:
        return f"KPS_{name.upper()} must be true or false"
    limits = {word: getattr(limit, word) for limit in field.metadata for word in ("ge", "gt", "le") if hasattr(limit, word)}
    kind = "a whole number" if field.annotation is int else "a number"
    least = f"from {limits['ge']} to" if "ge" in limits else f"above {limits['gt']}, up to"
    return f"KPS_{name.upper()} must be {kind} {least} {limits['le']}"
