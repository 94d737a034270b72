"""What a server asks for in keyboard-interactive: the login's password, or something that a password is no answer to.

RFC 4256: a server may ask for anything, in any words. A password is given to what is surely a question for it: to no one-time
code, no new password, and to nothing that cannot be told.
"""

import re
from collections.abc import Sequence

# sshd puts "(login@host) " before what PAM asks, from OpenSSH 8.7 on.
_BEFORE = r"(\([^()\s@]{1,100}@[^()\s]{1,255}\)\s*)?"
# pam_unix, pam_sss, pam_krb5 and pam_ldap; and pam_unix in the languages of its commonest translations.
_WORDS = (
    r"(unix |ldap |ad |kerberos |login |ssh |account |your |user )?(password|passwort|kennwort|mot de passe|contraseña|senha|"
    r"palavra-passe|wachtwoord|hasło|heslo|lösenord|adgangskode|passord|salasana|пароль|パスワード|密码|密碼|암호)"
)
_AFTER = r"(\s+for\s+[^\s:]{1,300})?\s*[:：]?\s*"
_PASSWORD = re.compile(f"{_BEFORE}{_WORDS}{_AFTER}", re.IGNORECASE)


def asks_for_password(prompts: Sequence[tuple[str, bool]]) -> bool:
    """Say whether this is one question, not echoed, and surely for the login's password."""
    return len(prompts) == 1 and not prompts[0][1] and _PASSWORD.fullmatch(prompts[0][0].strip()) is not None
