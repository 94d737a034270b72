"""What opens servers, as it was given with a form: the fields of given.html. Nothing of it is shown again."""

from controller.errors import Invalid
from controller.model import Credential, Secret
from controller.web.asking import Form

MOST_CHARACTERS = 64 * 1024  # of a private key file, and of a certificate


async def given(form: Form) -> Credential | None:
    """Return what was given with a form; None where nothing was. Invalid where it does not go together."""
    password, pasted = form.secret("password"), form.long_text("identity", most=MOST_CHARACTERS)
    identity = await form.file("identity_file")
    if identity is not None and pasted.strip():
        raise Invalid("key_twice", "give the private key as a file or pasted, not both")
    if pasted.strip():
        identity = Secret(pasted)
    passphrase, certificate = form.secret("passphrase"), form.long_text("certificate", most=MOST_CHARACTERS).strip()
    whose = form.text("password_of", most=64)
    if identity is None and (passphrase is not None or certificate):
        raise Invalid("invalid", "a passphrase or a certificate goes with a private key; give that too")
    if password is None and whose:
        raise Invalid("invalid", f"the password of {whose} is not there; type it")
    if password is None and identity is None:
        return None
    return Credential(
        password=password,
        password_of=whose or None,
        identity=identity,
        passphrase=passphrase,
        certificate=certificate or None,
    )
