"""The verbs, by noun. Each is one transaction; each may be called from any thread, and by several processes at once."""

from controller.store.accesskeys import AccessKeys
from controller.store.console import Console
from controller.store.copies import Copies
from controller.store.doorhooks import DoorHooks
from controller.store.events import Events
from controller.store.failures import Failures
from controller.store.figures import Counted
from controller.store.keybelongings import KeyBelongings
from controller.store.masterkeys import MasterKeys
from controller.store.overviews import Overviews
from controller.store.people import People
from controller.store.policies import Policies
from controller.store.quotas import QuotaTable
from controller.store.rootkeys import RootKeys
from controller.store.secrets import Secrets
from controller.store.sharing import Sharing
from controller.store.standing import Standing
from controller.store.temporary import Temporary

__all__ = ["Store"]


class Store(
    People, AccessKeys, Temporary, Console, Standing, QuotaTable, MasterKeys, RootKeys, KeyBelongings, Sharing, Copies, DoorHooks,
    Failures, Policies, Secrets, Events, Counted, Overviews,
):  # fmt: skip
    """What the controller remembers.

    A verb that names something which is not there raises NotFound; a name taken is AlreadyExists.
    """
