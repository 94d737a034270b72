#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Turns tasks of ansible.posix.authorized_key into tasks of kps.fleet; what has no equal stays as it is, and is told.

    from_authorized_key.py tasks/main.yml            # prints the file as it would be; what was done goes to stderr
    from_authorized_key.py --write tasks/*.yml       # writes the files

Only the lines of the tasks that are turned change. Exit code 0: all were turned; 1: some stay, and are told; 2: a file
cannot be read.
"""

from __future__ import annotations

import argparse
import os
import re
import sys

import yaml

MODULES = ("authorized_key", "ansible.builtin.authorized_key", "ansible.posix.authorized_key")
OPTIONS = ("user", "key", "state", "path", "manage_dir", "key_options", "exclusive", "comment", "validate_certs", "follow")
KEY = re.compile(r"(ssh-|ecdsa-|sk-)\S+ \S+")
FROM_FILE = re.compile(r"\{\{\s*lookup\(\s*['\"](?:ansible\.builtin\.)?file['\"]\s*,\s*['\"]([^'\"{}]+)['\"]\s*\)\s*\}\}")
COMMENT = re.compile(r"(^|\s)#.*$")
TRUE, FALSE = ("yes", "true", "on", "1"), ("no", "false", "off", "0")
# Why a task stays as it is, by the option.
NO_EQUAL = {
    "exclusive": "a binding takes no key away that the controller has not bound; look at what else is there "
    "with `kps server check`, and take it away by hand",
    "key_options": "a binding writes no options, and without them the key would be allowed more than it is now",
    "path": "the controller asks sshd where it reads keys, and writes there alone",
    "follow": "the controller decides about links as sshd does, and follows none that sshd would not",
    "manage_dir": "the directory is made where it is missing, with the rights that sshd wants; there is no switch against that",
}


class Stays(Exception):
    """a task stays as it is; the message says why"""


def turned(text, scope):
    """Return the text of a file with its tasks turned, and what there is to tell: (line, whether turned, words)."""
    lines = text.split("\n")
    told = []
    for task in sorted(_tasks(yaml.compose(text, Loader=yaml.SafeLoader)), key=lambda task: -task.start_mark.line):
        line = task.start_mark.line
        try:
            new, notes = _turned(task, scope)
        except Stays as why:
            told.append((line + 1, False, str(why)))
            continue
        last = _end(task)
        while not lines[last - 1].strip():
            last -= 1  # a block of text takes the blank lines after it along
        comments = [found.group().strip() for found in map(COMMENT.search, lines[line:last]) if found]
        notes += [f"a comment is left out: {comment}" for comment in comments]
        lines[line:last] = new
        told.append((line + 1, True, "; ".join(notes)))
    return "\n".join(lines), sorted(told)


def _tasks(node):
    """Yield the tasks of this module, wherever they stand."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            if isinstance(each, yaml.MappingNode) and any(name.value in MODULES for name, _value in each.value):
                yield each
            else:
                yield from _tasks(each)
    elif isinstance(node, yaml.MappingNode):
        for _name, value in node.value:
            yield from _tasks(value)


def _end(node):
    """Return the line after the last one of a node; the library's own mark of a block lies where the next thing begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    begins_line = node.end_mark.column == 0 and node.end_mark.line > node.start_mark.line
    return node.end_mark.line if begins_line else node.end_mark.line + 1


def _turned(task, scope):
    """Return the lines that take a task's place, and what to tell of them."""
    if task.flow_style:
        raise Stays("written in braces; write it in lines first")
    ((module, arguments),) = [pair for pair in task.value if pair[0].value in MODULES]
    if not isinstance(arguments, yaml.MappingNode):
        raise Stays("its arguments are one string; write them as a mapping first")
    given = {name.value: value for name, value in arguments.value}
    strange = sorted(set(given) - set(OPTIONS))
    if strange:
        raise Stays(f"{', '.join(strange)}: no option of authorized_key")
    words = {name: _word(name, value) for name, value in given.items()}
    for name, why in NO_EQUAL.items():
        unless = TRUE if name == "manage_dir" else FALSE
        if name in words and words[name].lower() not in unless:
            raise Stays(f"{name}: {why}")
    state = words.get("state", "present")
    if state not in ("present", "absent"):
        raise Stays(f"state: {state!r} is decided when it is played; say present or absent")
    name, public, notes = _key(words)
    login = words.get("user")
    if not login:
        raise Stays("user: missing")
    others = [(key, value) for key, value in task.value if key is not module and key.value != "name"]
    said = next((value.value for key, value in task.value if key.value == "name"), None)
    indent = " " * task.start_mark.column
    first = " " * (task.start_mark.column - 2) + "- "
    if any(key.value == "register" for key, _value in others):
        notes.append("register: what is registered now is another result")
    kept = _source(others, indent, task)
    new = []
    if state == "present":
        new += [f"{first}name: {_quoted('The key pair ' + name)}", f"{indent}kps.fleet.keypair:"]
        new += [f"{indent}  name: {_quoted(name)}", f"{indent}  public_key: {_quoted(public)}", f"{indent}  scope: {scope}"]
        words = {key.value for key, _value in others}
        alike = (
            ("when", "tags", "vars")
            if not any(word == "loop" or word.startswith("with_") for word in words)
            else ("tags", "vars")
        )
        # What is asked of the first host alone would not be asked of the others.
        new += [] if "when" in alike and "when" in words else [f"{indent}run_once: true"]
        new += [line for key, line in _source_by_key(others, indent, task) if key in alike]
    else:
        notes.append(f"absent: takes {name} away where the controller has bound it; a key that it has not bound is not touched")
    new += [f"{first}name: {_quoted(said or 'The binding of ' + name)}", f"{indent}kps.fleet.binding:"]
    new += [f"{indent}  keypair: {_quoted(name)}", f"{indent}  login: {_quoted(login)}"]
    # authorized_key leaves password login alone.
    new += [f"{indent}  keep_password_login: true"] if state == "present" else [f"{indent}  state: absent"]
    return new + kept, [*notes, f"key pair {name}"]


def _key(words):
    """Return a name for the key pair, its public key, and what to tell."""
    key = words["key"].strip() if "key" in words else ""
    notes = []
    if re.match(r"(https?|file)://", key):
        raise Stays("key: a URL; the controller fetches nothing, and what stands there may change: put the key in a file")
    if "validate_certs" in words:
        notes.append("validate_certs: nothing is fetched")
    keys = [line for line in key.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if len(keys) != 1:
        raise Stays(
            f"key: {len(keys)} keys; a login has one key pair of the controller, so give each person a login, or bind one"
        )
    from_file = FROM_FILE.fullmatch(key)
    if from_file:
        if "comment" in words:
            raise Stays("comment: write it in the key's own file")
        return _usable(os.path.basename(from_file.group(1)).rpartition(".")[0] or from_file.group(1)), key, notes
    if "{{" in key:
        raise Stays("key: it is known only when it is played, and so no name for the key pair; write it out, or look one file up")
    if not KEY.match(key):
        raise Stays("key: it begins with options or is no public key; a binding writes no options")
    parts = key.split(None, 2)
    comment = words.get("comment", parts[2] if len(parts) > 2 else "")
    if "{{" in comment:
        raise Stays("comment: it is known only when it is played")
    name = _usable(comment) or _usable(words.get("user", "")) or "key"
    return name, " ".join([*parts[:2], comment]).strip(), notes


def _word(name, node):
    if not isinstance(node, yaml.ScalarNode):
        raise Stays(f"{name}: not a word or a line")
    if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:null"):
        raise Stays(f"{name}: {node.tag} is opened only when it is played")
    return node.value


def _usable(text):
    """Return a name that a key pair can have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:255]


def _quoted(text):
    return yaml.dump(text, default_style='"' if re.search(r"[^\w ./-]|^\s|\s$|^$", text) else None, width=10**6).split("\n")[0]


def _source(pairs, indent, task):
    return [line for _key, line in _source_by_key(pairs, indent, task)]


def _source_by_key(pairs, indent, task):
    """Return the other keywords of a task, each line with its keyword, as they stand in the file."""
    lines = task.start_mark.buffer.rstrip("\0").split("\n") if task.start_mark.buffer else []
    found = []
    for key, value in pairs:
        own = lines[key.start_mark.line : _end(value)]
        while len(own) > 1 and not own[-1].strip():
            own.pop()
        own[0] = indent + own[0][key.start_mark.column :]
        found += [(key.value, line) for line in own]
    return found


def main(words=None):
    """Turn the files that are named; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--write", action="store_true", help="write the files, instead of printing what they would be")
    parser.add_argument(
        "--scope", choices=("account", "private"), default="account", help="whose the key pairs are (default: account)"
    )
    asked = parser.parse_args(words)
    code = 0
    for path in asked.files:
        try:
            with open(path, encoding="utf-8", newline="") as file:
                text = file.read()
            new, told = turned(text, asked.scope)
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            sys.stderr.write(f"{path}: {error}\n")
            code = 2
            continue
        for line, done, why in told:
            sys.stderr.write(f"{path}:{line}: {'turned' if done else 'stays'}: {why}\n")
            code = max(code, int(not done))
        if not asked.write:
            sys.stdout.write(new)
        elif new != text:
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(new)
    return code


if __name__ == "__main__":
    sys.exit(main())
