"""That the controller is told to stop: what begins nothing more from then on, and what waits no longer once it is over."""

import asyncio


class Stopping:
    """First begun: what runs may end, nothing new begins. Then over: whoever waits for news is answered with what there is."""

    def __init__(self) -> None:
        self.begun = False
        self._over = asyncio.Event()

    def begin(self) -> None:
        """Begin nothing more from now on."""
        self.begun = True

    def end(self) -> None:
        """Wake whoever waits for news: none will come."""
        self.begun = True
        self._over.set()

    @property
    def over(self) -> bool:
        """Whether nobody is to wait for anything any more."""
        return self._over.is_set()

    async def rest(self, seconds: float) -> None:
        """Return after so many seconds, or as soon as it is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass
