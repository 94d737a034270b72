"""What the v3 API answers, as types: its OpenAPI document is made of them. Times are milliseconds since 1970."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Kind = Annotated[str, Field(pattern="^(READY|RUNNING|SUCCESS|FAILED)_(BIND|REPLACE|RESET|UNBIND)$")]


class Refused(TypedDict):
    """request_id: where the request did not come as far as the call."""

    error_code: Annotated[str, Field(pattern=r"^(KPS|APIGW)\.[0-9]{4}$")]
    error_msg: str
    request_id: NotRequired[str]


class Link(TypedDict):
    href: str
    rel: str


class Version(TypedDict):
    id: str
    links: list[Link]
    version: str
    status: str
    updated: str
    min_version: str


class Versions(TypedDict):
    versions: list[Version]


class OneVersion(TypedDict):
    version: Version


class Project(TypedDict):
    id: str
    name: str
    domain_id: str
    enabled: bool


class Projects(TypedDict):
    projects: list[Project]


class Nothing(TypedDict):
    """An empty object."""


class Made(TypedDict):
    """private_key: of a key pair that was made here."""

    name: str
    type: Literal["ssh"]
    public_key: str
    private_key: NotRequired[str]
    fingerprint: str
    user_id: str


class MadeKeypair(TypedDict):
    keypair: Made


class TwiceMade(Made):
    """Clients of one kind read it on the outer level, those of the other on the inner one."""

    keypair: Made


class Succeeded(TypedDict):
    keypair: TwiceMade


class Failed(TypedDict):
    keypair_name: str
    failed_reason: str


class BatchImported(TypedDict):
    succeeded_keypairs: list[Succeeded]
    failed_keypairs: list[Failed]


class Listed(TypedDict):
    name: str
    type: Literal["ssh"]
    scope: Literal["user", "domain"]
    public_key: str
    fingerprint: str
    is_key_protection: bool
    frozen_state: str


class ListedKeypair(TypedDict):
    keypair: Listed


class PageInfo(TypedDict):
    """next_marker: where there is another page."""

    next_marker: NotRequired[str]
    previous_marker: NotRequired[str]
    current_count: int


class Keypairs(TypedDict):
    keypairs: list[ListedKeypair]
    page_info: PageInfo


class Detail(TypedDict):
    id: int
    name: str
    type: Literal["ssh"]
    scope: Literal["user", "domain"]
    public_key: str
    fingerprint: str
    is_key_protection: bool
    deleted: bool
    description: str
    user_id: str
    create_time: int
    delete_time: int | None
    update_time: int | None
    frozen_state: int
    key_id: str | None
    algorithm: str


class KeypairDetail(TypedDict):
    keypair: Detail


class Name(TypedDict):
    name: str


class NamedKeypair(TypedDict):
    keypair: Name


class PrivateKey(TypedDict):
    name: str
    private_key: str


class ExportedKeypair(TypedDict):
    keypair: PrivateKey


class Submitted(TypedDict):
    task_id: str
    server_id: str
    status: Literal["SUCCESS"]


class NotSubmitted(TypedDict):
    server_id: str
    status: Literal["FAILED"]
    error_code: str
    error_msg: str


class BatchSubmitted(TypedDict):
    tasks: list[Submitted | NotSubmitted]


class TaskStatus(TypedDict):
    task_id: str
    server_id: str
    task_status: Kind


class ListedTask(TypedDict):
    task_id: str
    operate_type: Kind
    task_time: Annotated[str, Field(pattern="^[0-9]+$")]
    server_name: str
    server_id: str
    keypair_name: str


class FailedTask(ListedTask):
    task_error_code: str
    task_error_msg: str


class RunningTasks(TypedDict):
    total: int
    tasks: list[ListedTask]


class FailedTasks(TypedDict):
    total: int
    tasks: list[FailedTask]
