"""Further aliases and tags of customer master keys."""

import builtins
import re
from collections.abc import Mapping

from controller.errors import Invalid
from controller.kms import keys
from controller.model import Caller, KeyAlias
from controller.service.kms.common import Verbs
from controller.service.roles import allow

MOST_ALIASES = 50  # of one key
MOST_TAGS = 20  # of one key
TAG_CHARACTERS, VALUE_CHARACTERS = 36, 43

_NOT_IN_TAGS = re.compile(r"[\x00-\x1f\x7f*<>\\=]")


class Names(Verbs):
    """What else a tenant's master keys are called, and what is noted on them."""

    # -- aliases

    async def aliases(self, who: Caller, name: str | None = None) -> builtins.list[KeyAlias]:
        """Return the further aliases of the tenant's master keys, or of one of them, by name."""

        def aliases() -> builtins.list[KeyAlias]:
            allow(who, "masterkey.see")
            return self._store.key_aliases(who.tenant_id, None if name is None else self._seen(who, name).id)

        return await self._off(aliases)

    async def add_alias(self, who: Caller, name: str, alias: str) -> KeyAlias:
        """Give a master key a further alias. Invalid(alias_unusable), AlreadyExists(alias_taken), Conflict(alias_quota)."""

        def add() -> KeyAlias:
            key = self._changed(who, name)
            keys.check_further_alias(alias)
            keys.refuse_default(key, "given other names")
            return self._store.add_key_alias(key, alias, who.user_id, MOST_ALIASES)

        return await self._off(add)

    async def move_alias(self, who: Caller, alias: str, name: str) -> KeyAlias:
        """Have a further alias mean another master key. NotFound(alias_not_found)."""

        def move() -> KeyAlias:
            key = self._changed(who, name)
            keys.refuse_default(key, "given other names")
            return self._store.move_key_alias(key, alias, who.user_id)

        return await self._off(move)

    async def delete_alias(self, who: Caller, alias: str) -> None:
        """Take a further alias away. NotFound(alias_not_found)."""
        allow(who, "masterkey.change", what=alias)
        await self._off(self._store.delete_key_alias, who.tenant_id, alias, who.user_id)

    # -- tags

    async def tags(self, who: Caller, name: str) -> dict[str, str]:
        """Return the tags of a master key, by name."""
        return await self._off(lambda: self._store.key_tags(self._seen(who, name).id))

    async def all_tags(self, who: Caller) -> dict[str, builtins.list[str]]:
        """Return the names of all tags of the tenant's master keys, each with its values."""
        allow(who, "masterkey.see")
        return await self._off(self._store.all_key_tags, who.tenant_id)

    async def tag(self, who: Caller, name: str, tags: Mapping[str, str]) -> dict[str, str]:
        """Put tags on a master key, each in the place of one of its name, and return them all.

        Invalid: tags_missing, tag_name_unusable, tag_value_unusable. Conflict(tag_quota).
        """
        check_tags(tags)
        return await self._off(lambda: self._store.tag_key(self._changed(who, name), tags, who.user_id, MOST_TAGS))

    async def untag(self, who: Caller, name: str, tags: builtins.list[str], *, all_there: bool = True) -> None:
        """Take tags off a master key. Invalid(tags_missing); all_there: NotFound(tag_not_found) where one is not on it."""
        _some(tags)

        def untag() -> None:
            self._store.untag_key(self._changed(who, name), tags, who.user_id, all_there=all_there)

        await self._off(untag)


def check_tags(tags: Mapping[str, str]) -> None:
    """Invalid: tags_missing (none, or too many), tag_name_unusable, tag_value_unusable."""
    _some(tags)
    for tag, value in tags.items():
        if not 1 <= len(tag) <= TAG_CHARACTERS or _NOT_IN_TAGS.search(tag):
            raise Invalid(
                "tag_name_unusable", f"{tag[:100]!r}: a tag's name is 1 to {TAG_CHARACTERS} characters, none of * < > \\ ="
            )
        if len(value) > VALUE_CHARACTERS or _NOT_IN_TAGS.search(value):
            message = f"{value[:100]!r}: a tag's value is at most {VALUE_CHARACTERS} characters, none of * < > \\ ="
            raise Invalid("tag_value_unusable", message)


def _some(tags: Mapping[str, str] | builtins.list[str]) -> None:
    if not tags:
        raise Invalid("tags_missing", "give at least one tag")
    if len(tags) > MOST_TAGS:
        raise Invalid("tags_missing", f"{len(tags)} tags at once; a master key has at most {MOST_TAGS}")
