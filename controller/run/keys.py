"""The private halves that a run may use: the one given with the order, and those in custody."""

from dataclasses import replace
from typing import cast

from controller import opening, order
from controller.errors import Conflict, Damaged, Unavailable
from controller.keyfiles import certificate
from controller.keyfiles.signing import SigningKey
from controller.model import KeyPair, Secret, now
from controller.run.job import Job
from controller.transport import sshagent
from controller.transport.connect import NotConnected
from controller.transport.offer import Held, Signer


async def key_given(job: Job) -> Held | None:
    """Return the private key that came with the order, ready to sign, wherever it is kept."""
    given = job.given
    if given is None or not given.by_key:
        return None
    if given.agent_key is not None:
        found = await sshagent.find(given.agent_socket or "", given.agent_key)
    else:
        found = await job.means.keys_given.read(cast(Secret, given.identity), given.passphrase)
        job.read = found
    if given.certificate is None:
        return found
    return replace(found, certificate=certificate.read(given.certificate, found.line, now()))


def line_given(job: Job) -> str | None:
    """Return the public half of the key given, where it works by itself.

    What a certificate opens is not in authorized_keys: such a key is a way in, and nothing to be proved or taken away.
    """
    return None if job.identity is None or job.identity.certificate is not None else job.identity.line


async def held(job: Job, keypair: KeyPair) -> Held:
    """Return a key pair in custody, ready to sign. NotConnected, as private_half."""
    return Held(keypair.line, await private_half(job, keypair))


async def private_half(job: Job, keypair: KeyPair) -> SigningKey:
    """Return the private half from custody, opened once for this task and on record once.

    NotConnected custody_damaged, root_key_missing or master_key_unusable: nothing gets in with it, but another way may.
    """
    if keypair.id not in job.opened:
        means = job.means
        asked = (means.off, means.kept, means.store, means.kms, keypair.id, opening.LOGIN)
        try:
            keypair, stored = await opening.opened_for(job.task, *asked)
        except (Conflict, Damaged, Unavailable) as problem:
            if problem.code == "store_unusable":
                raise
            unusable = "master_key_unusable" if isinstance(problem, Conflict) else "root_key_missing"
            cause = "custody_damaged" if isinstance(problem, Damaged) else unusable
            message = f"{job.server.name}: {problem.message}"
            raise NotConnected(cause, message, keypair=keypair.name, custody=problem.code) from problem
        try:
            job.opened[keypair.id] = SigningKey(keypair.type, stored)
        finally:
            stored.wipe()
    return job.opened[keypair.id]


async def private_of(job: Job, line: str) -> Signer | None:
    """Return the private half of the key pair in question, where it is in custody or was given."""
    keypair = job.order.keypair or job.order.asked
    given = job.identity
    if given is not None and given.certificate is None and order.same(given.line, line):
        return given.signer
    if keypair is not None and keypair.managed and order.same(keypair.line, line):
        return await private_half(job, keypair)
    return None
