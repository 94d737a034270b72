"""How long what this process does takes, told to whoever counts it: nobody, unless the home is served."""


class Measures:
    """Is told what was done, and the seconds that it took. This one lets it go. All words are of closed lists."""

    def ended(self, operation: str, status: str, cause: str | None, waited: float, took: float) -> None:
        """A task came to its end. waited: from the order until it was begun; took: from then on."""

    def phase(self, phase: str, took: float) -> None:
        """A task has left a phase."""

    def connected(self, result: str, took: float) -> None:
        """A server was asked to let us in for a task: "let_in", or the cause why not. Proofs are not counted here."""

    def proved(self, result: str, took: float) -> None:
        """A proof was tried: the method by which it held, or the cause why not."""


UNMEASURED = Measures()
