"""A key as it is offered to a server: exactly this one, with a certificate or without, signed for here or by an agent."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncssh

from kpsagent.errors import Refused

_SHA1 = b"ssh-rsa"
_RSA = (b"rsa-sha2-256", b"rsa-sha2-512", _SHA1)


@functools.lru_cache(maxsize=4096)
def public_key(line: str) -> asyncssh.SSHKey:
    """Return a public key line as asyncssh's key: a rollout shows a few keys, and each server's own, again and again."""
    return asyncssh.import_public_key(line)


class Signer(Protocol):
    """Whatever has a private half: asyncssh's own keys, and those that an agent keeps."""

    def sign(self, data: bytes, sig_algorithm: bytes, /) -> bytes | Awaitable[bytes]:
        """Return the signature of data, in the form of RFC 4253."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Held:
    """A private key that can be used. line: its public half. certificate: a user certificate for it, as a line."""

    line: str
    signer: Signer
    certificate: str | None = None


class Watches(Protocol):
    """What an offer tells of itself, and over which connection it goes: connect.Client."""

    shown: bool
    tried: bool

    def give_up(self) -> None:
        """Break off the connection within the log-in."""


class Offer(asyncssh.SSHKeyPair):
    """A key as it is offered to a server; remembers whether the server was ready to take it.

    Where the private half is not known, the connection is given up at the moment the server would accept the key.
    """

    def __init__(
        self,
        public_line: str,
        private: Signer | None,
        client: Watches,
        certificate: str | None = None,
        *,
        by: Sequence[bytes] = (),
    ) -> None:
        """by: by what it is offered, whatever the server is allowed; only for a key that is not signed for."""
        public = public_key(public_line)
        cert = None if certificate is None else asyncssh.import_certificate(certificate)
        super().__init__(
            public.algorithm,
            public.algorithm,
            public.sig_algorithms,
            public.sig_algorithms,
            public.public_data,
            None,
            cert,
        )
        self._private = private
        self._client = client
        self._by = by
        self.accepted = False
        self.failed: Refused | None = None  # why it could not be signed for
        self.only_sha1 = False  # it is RSA, and the server has named no signature of it but SHA-1

    @classmethod
    def of(cls, held: Held, client: Watches) -> Offer:
        """Return the offer of a private key that can be used."""
        return cls(held.line, held.signer, client, held.certificate)

    @property
    def only_asked(self) -> list[str]:
        """The algorithms by which it is offered and not signed for: none of them can do harm. Empty where it is to sign."""
        return [name.decode("ascii") for name in self.sig_algorithms] if self._private is None else []

    def restrict(self, old: Collection[str]) -> None:
        """Sign with SHA-1 only where that is among the old algorithms that the server is allowed."""
        if self._by:
            self.sig_algorithms = self._by
            return
        if _SHA1 not in self.sig_algorithms or _SHA1.decode("ascii") in old:
            return
        self.sig_algorithms = [name for name in _RSA if name != _SHA1]
        # A server that does not say what it takes (RFC 8308) is tried with SHA-2 all the same: it can but say no.
        self.set_sig_algorithm(self.sig_algorithms[-1])
        self.only_sha1 = True

    def set_sig_algorithm(self, sig_algorithm: bytes) -> None:
        self.only_sha1 = False
        self.sig_algorithm = sig_algorithm
        if self._cert is None:
            self.algorithm = sig_algorithm
        elif sig_algorithm in _RSA:
            # By this name OpenSSH 7.8 and later know an RSA certificate that is not signed for with SHA-1.
            self.algorithm = sig_algorithm + b"-cert-v01@openssh.com"

    async def sign_async(self, data: bytes) -> bytes:
        self.accepted = True
        if self._private is None:
            self._client.give_up()
            return b""
        self._client.shown = True
        try:
            signed = self._private.sign(data, self.sig_algorithm)
            return await signed if inspect.isawaitable(signed) else signed
        except Refused as refused:
            self.failed = refused
            self._client.give_up()
            return b""
