"""Editors as one would write them at first. The corpora must catch every one of them, or they are no corpora."""

import re

# -- authorized_keys: (text, type, base64) -> text ---------------------------------------------------------------------


def remove_by_splitlines(text: str, type: str, word: str) -> str:
    kept = [line for line in text.splitlines(keepends=True) if [type, word] != line.split()[:2]]
    return "".join(kept)


def remove_by_substring(text: str, type: str, word: str) -> str:
    return "\n".join(line for line in text.split("\n") if word not in line)


def remove_by_text(text: str, type: str, word: str) -> str:
    return "\n".join(line for line in text.split("\n") if f"{type} {word}" != " ".join(line.split(" ")[:2]))


def remove_first(text: str, type: str, word: str) -> str:
    lines = text.split("\n")
    for line in lines:
        if line.startswith(f"{type} {word}"):
            lines.remove(line)
            break
    return "\n".join(lines)


def add_at_end(text: str, type: str, word: str) -> str:
    return text + f"{type} {word}\n"


def add_unless_substring(text: str, type: str, word: str) -> str:
    if word in text:
        return text
    return text + ("\n" if text and not text.endswith("\n") else "") + f"{type} {word}\n"


def add_with_splitlines(text: str, type: str, word: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    if f"{type} {word}" not in lines:
        lines.append(f"{type} {word}")
    return "\n".join(lines) + "\n"


REMOVERS = [remove_by_splitlines, remove_by_substring, remove_by_text, remove_first]
ADDERS = [add_at_end, add_unless_substring, add_with_splitlines]

# -- sshd_config: text -> text with PasswordAuthentication no ----------------------------------------------------------

WANTED = "PasswordAuthentication no"


def append_at_end(text: str) -> str:
    return text + ("" if text.endswith("\n") or not text else "\n") + WANTED + "\n"


def append_unless_substring(text: str) -> str:
    return text if WANTED in text else append_at_end(text)


def replace_in_place_or_append(text: str) -> str:
    done, count = re.subn(r"(?m)^#?\s*PasswordAuthentication\s.*$", WANTED, text)
    return done if count else append_at_end(text)


def prepend_with_splitlines(text: str) -> str:
    return "\n".join([WANTED, *text.splitlines()]) + "\n"


SETTERS = [append_at_end, append_unless_substring, replace_in_place_or_append]
