"""The verbs of /fleet/v1/kms: customer master keys, and what they are used for. docs/kms.md says what each takes and refuses.

name: the id of a master key, or one of its aliases. Bytes are Base64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from controller.client.call import Call, Flow, Verb, segment

if TYPE_CHECKING:
    from controller import answers as a

T = TypeVar("T")
Request = Mapping[str, Any]
LifeStep = Literal["enable", "disable", "schedule-deletion", "cancel-deletion", "rotate", "material", "delete-material"]


@dataclass(frozen=True, slots=True)
class OfKey(Generic[T]):
    """A call about one master key, below its path. An alias with a slash, which no path takes, is looked up first."""

    method: str
    name: str
    step: str = ""
    body: Any = None
    params: Any = None

    def __iter__(self) -> Flow[T]:
        """Have it sent until it is answered."""
        name = self.name
        if "/" in name:
            found: list[a.MasterKey] = yield from Call("GET", "/kms/keys", params={"named": name})
            name = found[0]["id"]
        below = f"/{self.step}" if self.step else ""
        answer: T = yield from Call(self.method, f"/kms/keys/{segment(name)}{below}", params=self.params, body=self.body)
        return answer


class MasterKeyVerbs:
    """What both clients can ask of /kms."""

    @Verb
    def master_keys(
        self, *, spec: str | None = None, state: str | None = None, tags: Iterable[str] = ()
    ) -> Call[list[a.MasterKey]]:
        """Return the master keys, by age; only those of a spec, in a state, with tags (NAME, NAME=VALUE)."""
        asked = [("tag", tag) for tag in tags]
        asked += [(name, value) for name, value in (("spec", spec), ("state", state)) if value is not None]
        return Call("GET", "/kms/keys", params=asked)

    @Verb
    def create_master_key(self, request: Request) -> Call[a.MasterKey]:
        """Make a master key and return it."""
        return Call("POST", "/kms/keys", body=dict(request))

    @Verb
    def master_key(self, name: str) -> OfKey[a.WholeMasterKey]:
        """Return one master key, with its versions, tags and further aliases."""
        return OfKey("GET", name)

    @Verb
    def change_master_key(self, name: str, changes: Request) -> OfKey[a.MasterKey]:
        """Give a master key another alias or description, and return it."""
        return OfKey("PATCH", name, body=dict(changes))

    @Verb
    def take_life_step(self, name: str, step: LifeStep, request: Request | None = None) -> OfKey[a.MasterKey]:
        """Take a master key to another state or version, as the step says, and return it."""
        return OfKey("POST", name, step, None if request is None else dict(request))

    @Verb
    def set_rotation(self, name: str, days: int | None = None) -> OfKey[a.MasterKey]:
        """Have a master key rotated by itself, and return it."""
        return OfKey("PUT", name, "rotation", {"days": days})

    @Verb
    def end_rotation(self, name: str) -> OfKey[a.MasterKey]:
        """Have a master key rotated by itself no more, and return it."""
        return OfKey("DELETE", name, "rotation")

    @Verb
    def import_parameters(self, name: str, request: Request | None = None) -> OfKey[a.ImportParameters]:
        """Return what it takes to import material: a key to encrypt it with, and a token."""
        return OfKey("POST", name, "import-parameters", dict(request or {}))

    @Verb
    def master_key_quota(self) -> Call[a.KeyQuota]:
        """Return how many master keys there are, and may be."""
        return Call("GET", "/kms/quota")

    # grants, tags, further aliases

    @Verb
    def grants(self, name: str) -> OfKey[list[a.Grant]]:
        """Return the grants of a master key."""
        return OfKey("GET", name, "grants")

    @Verb
    def retirable_grants(self) -> Call[list[a.Grant]]:
        """Return the grants that the caller may retire."""
        return Call("GET", "/kms/retirable-grants")

    @Verb
    def create_grant(self, name: str, request: Request) -> OfKey[a.Grant]:
        """Give a user leave to use a master key, and return the grant."""
        return OfKey("POST", name, "grants", dict(request))

    @Verb
    def end_grant(self, name: str, grant_id: str, how: Literal["revoke", "retire"]) -> OfKey[a.Grant]:
        """Take a grant back, or give it up, and return it."""
        return OfKey("POST", name, f"grants/{segment(grant_id)}/{how}")

    @Verb
    def tag_master_key(self, name: str, tags: Mapping[str, str]) -> OfKey[dict[str, str]]:
        """Put tags on a master key, and return all that it has."""
        return OfKey("POST", name, "tags", {"tags": dict(tags)})

    @Verb
    def untag_master_key(self, name: str, tags: Iterable[str]) -> OfKey[None]:
        """Take tags off a master key."""
        return OfKey("DELETE", name, "tags", params=[("tag", tag) for tag in tags])

    @Verb
    def master_key_tags(self) -> Call[dict[str, list[str]]]:
        """Return all tags that there are, each with its values."""
        return Call("GET", "/kms/tags")

    @Verb
    def aliases(self, name: str | None = None) -> Call[list[a.KeyAlias]]:
        """Return the further aliases, of one master key or of all."""
        return Call("GET", "/kms/aliases", params={} if name is None else {"key": name})

    @Verb
    def add_alias(self, alias: str, name: str) -> Call[a.KeyAlias]:
        """Give a master key a further alias, and return that."""
        return Call("POST", "/kms/aliases", body={"alias": alias, "key": name})

    @Verb
    def move_alias(self, alias: str, name: str) -> Call[a.KeyAlias]:
        """Have a further alias lead to another master key, and return it."""
        return Call("PUT", "/kms/aliases", body={"alias": alias, "key": name})

    @Verb
    def delete_alias(self, alias: str) -> Call[None]:
        """Delete a further alias."""
        return Call("DELETE", "/kms/aliases", params={"alias": alias})

    # data

    @Verb
    def encrypt(self, name: str, request: Request) -> OfKey[a.Encrypted]:
        """Encrypt plaintext under a master key."""
        return OfKey("POST", name, "encrypt", dict(request))

    @Verb
    def decrypt(self, request: Request) -> Call[a.Decrypted]:
        """Decrypt ciphertext."""
        return Call("POST", "/kms/decrypt", body=dict(request))

    @Verb
    def re_encrypt(self, request: Request) -> Call[a.ReEncrypted]:
        """Encrypt ciphertext anew, under another master key."""
        return Call("POST", "/kms/re-encrypt", body=dict(request))

    @Verb
    def create_data_key(self, name: str, request: Request) -> OfKey[a.DataKey]:
        """Make a data key, sealed under a master key."""
        return OfKey("POST", name, "data-keys", dict(request))

    @Verb
    def encrypt_data_key(self, name: str, request: Request) -> OfKey[a.EncryptedDataKey]:
        """Seal a data key of one's own."""
        return OfKey("POST", name, "encrypt-data-key", dict(request))

    @Verb
    def decrypt_data_key(self, name: str, request: Request) -> OfKey[a.DecryptedDataKey]:
        """Open a sealed data key."""
        return OfKey("POST", name, "decrypt-data-key", dict(request))

    @Verb
    def create_data_key_pair(self, name: str, request: Request) -> OfKey[a.DataKeyPair]:
        """Make a key pair for oneself, its private half sealed under a master key."""
        return OfKey("POST", name, "data-key-pairs", dict(request))

    @Verb
    def random_bits(self, bits: int) -> Call[a.RandomBits]:
        """Return so many random bits."""
        return Call("POST", "/kms/random", body={"bits": bits})

    # signatures and codes

    @Verb
    def public_half(self, name: str) -> OfKey[a.PublicHalf]:
        """Return the public half of a master key, as PEM."""
        return OfKey("GET", name, "public-key")

    @Verb
    def sign(self, name: str, request: Request) -> OfKey[a.Signature]:
        """Sign a message, or its digest."""
        return OfKey("POST", name, "sign", dict(request))

    @Verb
    def verify(self, name: str, request: Request) -> OfKey[a.Verdict]:
        """Say whether a signature is good."""
        return OfKey("POST", name, "verify", dict(request))

    @Verb
    def make_code(self, name: str, request: Request) -> OfKey[a.Code]:
        """Make an authentication code of a message."""
        return OfKey("POST", name, "mac", dict(request))

    @Verb
    def verify_code(self, name: str, request: Request) -> OfKey[a.Verdict]:
        """Say whether an authentication code is good."""
        return OfKey("POST", name, "verify-mac", dict(request))
