"""The images of a Docker Engine: there already, or being pulled."""

import asyncio
from collections.abc import Callable

from aiodocker import Docker, DockerError

from drivers.contracts import Refused

LONGEST = 30 * 60.0  # seconds of one pull
REMEMBERED = 30.0  # seconds that a failed pull's reason waits for somebody to ask
REPOSITORY = "images.thecloud.internal/"  # of images that come from archives; no registry has this name
ENGINE_IS_AWAY = 900  # aiodocker's number for it


class Images:
    """Pulls each image once for everyone who asks. What is under way is all that is remembered."""

    def __init__(self, engine: Callable[[], Docker]) -> None:
        self._engine = engine
        self._pulls: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Give up the pulls under way."""
        for pull in self._pulls.values():
            pull.cancel()
        await asyncio.gather(*self._pulls.values(), return_exceptions=True)

    async def has(self, image: str) -> bool:
        try:
            await self._engine().images.inspect(reference(image))
        except DockerError as error:
            if error.status in (400, 404):
                return False
            raise
        return True

    async def pulled(self, image: str, wait: float) -> None:
        """Have the image being pulled, and wait so many seconds for it.

        Raises Refused when the pull failed. That is told once: asked again, it is tried again. Raises LookupError for
        an image that no registry has, since an archive is where it comes from.
        """
        image = reference(image)
        if image.startswith(REPOSITORY):
            raise LookupError(f"{image} is not loaded")
        if image not in self._pulls:
            self._pulls[image] = asyncio.create_task(self._pull(image), name=f"pull {image}")
            self._pulls[image].add_done_callback(lambda pull: self._forget_later(image, pull))
        pull = self._pulls[image]
        await asyncio.wait([pull], timeout=wait)
        if pull.done():
            self._forget(image, pull)
            await pull

    def _forget_later(self, image: str, pull: asyncio.Task[None]) -> None:
        if not pull.cancelled():
            pull.exception()  # whoever asks is told; nobody asking is no error
            asyncio.get_running_loop().call_later(REMEMBERED, self._forget, image, pull)

    def _forget(self, image: str, pull: asyncio.Task[None]) -> None:
        if self._pulls.get(image) is pull:
            del self._pulls[image]

    async def _pull(self, image: str) -> None:
        try:
            async with asyncio.timeout(LONGEST):
                await self._engine().images.pull(image)
        except TimeoutError:
            reason = f"it took more than {LONGEST / 60:g} minutes"
        except DockerError as error:
            if error.status == ENGINE_IS_AWAY:
                raise
            reason = error.message
        else:
            return
        raise Refused(
            f"image {image} is not on this host and cannot be pulled: {reason}; "
            "build it with `thecloud images build`, or name one that is there"
        )


def reference(image: str) -> str:
    """The image's name with its tag, as the engine lists it."""
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"
