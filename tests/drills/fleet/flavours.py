"""The flavours: what each folder of docker/fleet says, and the image that is made of it."""

import hashlib
import shutil
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors

from controller.demo.trees import root_tree

FOLDER = Path(__file__).parents[3] / "docker" / "fleet"
EXPECTATIONS = "expect.toml"
REPOSITORY = "kps-fleet"
BASE = "base.Dockerfile"


@dataclass(frozen=True)
class Refusal:
    """Why an operation is refused on a flavour."""

    cause: str
    because: str


@dataclass(frozen=True)
class Flavour:
    """One kind of server, as its expectation file has it. docs/flavours.md says what each word means."""

    name: str
    about: str
    suite: str
    greets: str
    python: str
    login: str = "root"
    systemd: bool = False
    stand_in: bool = False
    keys: str = "/root/.ssh/authorized_keys"
    config: str = "/etc/ssh/sshd_config"
    owners_config: str = "/etc/ssh/sshd_config"
    address_file: str = "/etc/default/ssh"
    address_text: str = 'SSHD_OPTS="-o ListenAddress={address}:22"\n'
    host_key: str = "/etc/ssh/ssh_host_ed25519_key"
    reload: str = "/usr/sbin/sshd -t && kill -HUP $(cat /run/sshd.pid) && sleep 1"
    method: str = "password"
    passwords: tuple[str, ...] = ("root", "bob")
    refuses: dict[str, Refusal] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def has_penalties(self) -> bool:
        """Whether its sshd makes an address wait that failed to log in (sshd_config(5), PerSourcePenalties)."""
        return "OpenSSH_1" in self.greets

    @property
    def others(self) -> list[str]:
        """The other logins that have a password, and no key."""
        return [login for login in self.passwords if login != self.login]


def read(folder: Path) -> Flavour:
    """Return the flavour of a folder. TypeError where its file says what no flavour has."""
    said: dict[str, Any] = tomllib.loads((folder / EXPECTATIONS).read_text())
    refuses = {operation: Refusal(**why) for operation, why in said.pop("refuses", {}).items()}
    if "passwords" in said:
        said["passwords"] = tuple(said["passwords"])
    return Flavour(name=folder.name, refuses=refuses, **said)


def every() -> list[Flavour]:
    """Every flavour that has a folder, by name."""
    return [read(path.parent) for path in sorted(FOLDER.glob(f"*/{EXPECTATIONS}"))]


# -- images ------------------------------------------------------------------------------------------------------------


def image(client: docker.DockerClient, flavour: Flavour) -> str:
    """Return the image of a flavour, built where it is missing or its folder has changed since."""
    base = _base(client, flavour.suite)
    stamp = hashlib.sha256(base.encode())
    for path in sorted([*flavour.folder.rglob("*"), *FOLDER.glob("*")]):
        if path.is_file() and path.name != EXPECTATIONS:
            stamp.update(str(path.relative_to(FOLDER)).encode() + path.read_bytes())
    return _built(client, f"{REPOSITORY}:{flavour.name}-{stamp.hexdigest()[:12]}", f"{flavour.name}/Dockerfile", base)


def _base(client: docker.DockerClient, suite: str) -> str:
    """The image that all flavours of a suite stand on: its root file system, which debootstrap made, and one login more."""
    base = bare(client, suite)
    stamp = hashlib.sha256(base.rpartition(":")[2].encode() + (FOLDER / BASE).read_bytes()).hexdigest()[:12]
    return _built(client, f"{REPOSITORY}-base:{suite}-{stamp}", BASE, base)


def bare(client: docker.DockerClient, suite: str) -> str:
    """Return the image of a suite as debootstrap made it."""
    tree = root_tree(suite)
    tag = f"{REPOSITORY}-bare:{tree.name}"
    if not _is_there(client, tag):
        _imported(client, tree, tag)
    return tag


def _is_there(client: docker.DockerClient, tag: str) -> bool:
    try:
        client.images.get(tag)
    except docker.errors.ImageNotFound:
        return False
    return True


def _imported(client: docker.DockerClient, tree: Path, tag: str) -> None:
    repository, _, name = tag.partition(":")
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        # tar(1) keeps owners, links and attributes without a second thought.
        subprocess.run(["tar", "--numeric-owner", "-C", str(tree), "-cf", archive.name, "."], check=True)
        client.api.import_image_from_file(archive.name, repository=repository, tag=name)


def _built(client: docker.DockerClient, tag: str, dockerfile: str, base: str) -> str:
    if not _is_there(client, tag):
        with tempfile.TemporaryDirectory() as context:
            shutil.copytree(FOLDER, context, dirs_exist_ok=True)
            try:
                client.images.build(
                    path=context,
                    dockerfile=dockerfile,
                    tag=tag,
                    buildargs={"BASE": base},
                    network_mode="host",
                    rm=True,
                    forcerm=True,
                )
            except docker.errors.BuildError as error:
                said = "".join(line.get("stream", "") for line in error.build_log)
                raise RuntimeError(f"{tag} cannot be built: {error}\n{said[-3000:]}") from None
    return tag
