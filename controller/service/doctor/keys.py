"""Whether the root key is there and opens what is sealed, and how long the certificate holds."""

import ssl
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from controller.errors import Problem
from controller.kms import Kms, RootKey, root
from controller.kms.root import LaterRootKey
from controller.service import certificate
from controller.service.doctor.finding import Finding, found, refused, unseen, well
from controller.service.home import access_key_context
from controller.settings import Settings
from controller.store import Store


def root_key(settings: Settings, store: Store | None, opened: Sequence[LaterRootKey] | None = None) -> Iterator[Finding]:
    """Give whether each root key on record opens, and with it a master key and a secret. store: None where it cannot be asked.

    opened: those that this process has at hand, where it serves: who has logged in to a token does not do so twice. A file is
    read anew; the next start needs it.
    """
    try:
        at_hand = {each.uri: each for each in opened or () if not each.uri.startswith("file:")}
        roots = [at_hand.get(each.uri, each) for each in root.roots(settings.home, settings.root_key_uri)]
        for each in roots:
            each.opened()
    except Problem as problem:
        yield refused("root_key", problem)
        return
    uris = ", ".join(each.uri for each in roots)
    if len(roots) > 1:
        yield found("root_key", "root_key_changing", uris, "kps root rotate, which goes on")
    if store is None:
        yield unseen("root_key", f"{uris}: it is there; whether it opens what is sealed is told by the database")
        return
    try:
        told = _probe(store, roots)
    except Problem as problem:
        yield refused("root_key", problem)
        return
    if len(roots) == 1:
        yield well("root_key", f"{uris}: it opens {told}")


def _probe(store: Store, roots: Sequence[RootKey]) -> str:
    """Open one secret, and the master key that has sealed it; wipe both."""
    owner, access_key = store.local_owner()
    _, sealed = store.access_key(access_key)
    Kms(store, *roots).open(sealed, access_key_context(owner, access_key)).wipe()
    return "a master key and a secret that it has sealed; kps root check opens all"


def certificates(path: Path, key: Path | None, at: datetime) -> Iterator[Finding]:
    """Give how long a certificate holds, and whether its key goes with it. key: None where that is not ours to look at."""
    if not path.exists():
        yield well("certificate", "none: nothing is served with TLS of the home's own")
        return
    try:
        wrong = certificate.warning(path, at)
        shown = certificate.show(path)
        if key is not None:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(path, key)
    except Problem as problem:
        yield refused("certificate", problem)
        return
    except (OSError, ssl.SSLError) as error:
        told = f"{path}, {key}: {getattr(error, 'reason', None) or error.strerror}"
        step = "put certificate and key back that go together; or move both away, then kps serve makes others"
        yield Finding("certificate", "error", "certificate_unusable", told, step)
        return
    yield refused("certificate", wrong) if wrong else well("certificate", f"{path}: it holds until {shown.ends_at:%Y-%m-%d}")
