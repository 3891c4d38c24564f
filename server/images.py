"""Container images made of Debian's packages, for machines that reach no registry.

They carry the names a registry gives them, so that whoever asks for `nginx` need not know
where it came from. A name that is there already, from wherever, is left alone.
"""

import asyncio
import io
import json
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import aiohttp
from aiodocker import Docker, DockerError
from aiodocker.jsonstream import json_stream_list

SUITE = "bookworm"
ROOM = 3 * 2**30  # what unpacking the biggest takes
PACKAGES = {  # of tools that are not called like the package they are in
    "apt-get": "apt",
    "apt-cache": "apt",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mcopy": "mtools",
    "mformat": "mtools",
    "modprobe": "kmod",
    "qemu-img": "qemu-utils",
}


class BuildFailed(Exception):
    """The image cannot be built here. The text says why, and what to install when that is missing."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What an image is made of."""

    tags: tuple[str, ...]
    cmd: tuple[str, ...]
    packages: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    hook: str = ""  # a shell command run on the finished tree, which is $1


RECIPES: dict[str, Recipe] = {
    "busybox": Recipe(tags=("busybox:latest",), cmd=("sh",)),
    "debian": Recipe(tags=("debian:12", "debian:bookworm", "debian:latest"), cmd=("bash",)),
    "nginx": Recipe(
        tags=("nginx:latest",),
        cmd=("nginx", "-g", "daemon off;"),
        packages=("nginx",),
        ports=(80,),
        # A kernel without IPv6 refuses the second listen, and nginx then does not start.
        hook='ln -sf /dev/stdout "$1"/var/log/nginx/access.log; ln -sf /dev/stderr "$1"/var/log/nginx/error.log;'
        ' sed -i "/listen \\[::\\]/d" "$1"/etc/nginx/sites-available/default',
    ),
    "python": Recipe(
        tags=("python:3.11", "python:latest"),
        cmd=("python3",),
        packages=("python3", "python-is-python3"),
    ),
    "node": Recipe(tags=("node:18", "node:latest"), cmd=("node",), packages=("nodejs",)),
}


def names() -> list[str]:
    """What can be built."""
    return sorted(RECIPES)


async def build(name: str, *, rebuild: bool = False, say: Callable[[str], None], url: str | None = None) -> list[str]:
    """Have the image in the engine and return its tags; `say` is told the progress.

    Tags that are there are left alone, unless asked to rebuild. Raises BuildFailed.
    """
    if name not in RECIPES:
        raise BuildFailed(f"there is no recipe for {name}; there are {', '.join(names())}")
    recipe = RECIPES[name]
    async with _engine(url) as docker:
        wanted = [tag for tag in recipe.tags if rebuild or not await _has(docker, tag)]
        if not wanted:
            say(f"{name}: {', '.join(recipe.tags)} is there")
            return list(recipe.tags)
        say(f"{name}: building {', '.join(wanted)}")
        with TemporaryDirectory(dir=_roomy(), prefix="thecloud-image-") as folder:
            archive = Path(folder) / "root.tar"
            if name == "busybox":
                await _busybox(Path(folder), archive)
            else:
                await _bootstrap(recipe, Path(folder), archive)
            with archive.open("rb") as file:
                await _import(docker, recipe, wanted, file)
    say(f"{name}: done")
    return list(recipe.tags)


@asynccontextmanager
async def _engine(url: str | None) -> AsyncIterator[Docker]:
    docker = Docker(url=url or "unix:///var/run/docker.sock")
    try:
        await docker.version()
        yield docker
    except DockerError as error:
        raise BuildFailed(f"the Docker Engine did not do it: {error.message}; see `thecloud doctor`") from error
    finally:
        await docker.close()


async def _has(docker: Docker, tag: str) -> bool:
    try:
        await docker.images.inspect(tag)
    except DockerError as error:
        if error.status == 404:
            return False
        raise
    return True


async def _import(docker: Docker, recipe: Recipe, tags: list[str], archive: IO[bytes]) -> None:
    repository, _, tag = tags[0].rpartition(":")
    changes = [f"CMD {json.dumps(recipe.cmd)}", "LABEL thecloud.image=1"]
    changes += [f"EXPOSE {port}/tcp" for port in recipe.ports]
    async with docker._query(
        "images/create",
        "POST",
        params={"fromSrc": "-", "repo": repository, "tag": tag, "changes": "\n".join(changes)},
        data=archive,
        headers={"Content-Type": "application/x-tar"},
        timeout=aiohttp.ClientTimeout(total=600),
    ) as response:
        await json_stream_list(response)  # raises when the stream tells of an error
    for other in tags[1:]:
        repository_of_other, _, tag_of_other = other.rpartition(":")
        await docker.images.tag(tags[0], repository_of_other, tag=tag_of_other)


async def _busybox(folder: Path, archive: Path) -> None:
    """A tree of one static binary, with a link for each of its applets."""
    await run("apt-get", "download", "busybox-static", folder=folder)
    [package] = os.listdir(folder)
    await run("dpkg-deb", "-x", package, "root", folder=folder)
    binary = folder / "root/bin/busybox"
    applets = (await run(str(binary), "--list", folder=folder)).decode().split()
    with tarfile.open(archive, "w") as tree:
        for path, mode in {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "var/www": 0o755}.items():
            _add(tree, tarfile.TarInfo(path), type=tarfile.DIRTYPE, mode=mode)
        tree.add(binary, "bin/busybox", filter=_owned_by_root)
        for applet in applets:
            if applet != "busybox":
                _add(tree, tarfile.TarInfo(f"bin/{applet}"), type=tarfile.SYMTYPE, linkname="busybox")
        users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        _add(tree, tarfile.TarInfo("etc/passwd"), content=users)
        _add(tree, tarfile.TarInfo("etc/group"), content=b"root:x:0:\nnogroup:x:65534:\n")


def _add(
    tree: tarfile.TarFile,
    entry: tarfile.TarInfo,
    *,
    type: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    linkname: str = "",
    content: bytes = b"",
) -> None:
    entry.type, entry.mode, entry.linkname, entry.size = type, mode, linkname, len(content)
    tree.addfile(entry, io.BytesIO(content))


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


async def _bootstrap(recipe: Recipe, folder: Path, archive: Path) -> None:
    """A minimal Debian with the recipe's packages, without documentation and translations."""
    left_out = ("doc", "man", "locale", "info")
    hooks = ['rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/*.log', recipe.hook]
    await run(
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar"),
        f"--include={','.join(('ca-certificates', *recipe.packages))}",
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{path}/*" for path in left_out),
        *(f"--customize-hook={hook}" for hook in hooks if hook),
        *(SUITE, str(archive), *await _sources(folder)),
        folder=folder,
    )


async def _sources(folder: Path) -> list[str]:
    """This machine's own sources of the suite; none when it is another system, then mmdebstrap uses Debian's."""
    line = "deb $(SITE) $(RELEASE) $(COMPONENT)"
    found = await run(
        "apt-get", "indextargets", "--format", line, "Created-By: Packages", "Origin: Debian", folder=folder
    )
    return sorted({source for source in found.decode().splitlines() if source.split()[2].startswith(SUITE)})


def _roomy() -> Path | None:
    """Memory to unpack in when there is plenty, else the usual place."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > ROOM else None


async def run(*command: str, folder: Path) -> bytes:
    """What the command printed. Raises BuildFailed with its last words, or with what to install."""
    tool = command[0]
    if shutil.which(tool) is None:
        package = PACKAGES.get(tool, tool)
        raise BuildFailed(f"{tool} is missing; install it with `apt install {package}`")
    process = await asyncio.create_subprocess_exec(
        *("env", f"TMPDIR={folder.parent}", "LC_ALL=C", *command),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, complaints = await process.communicate()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    if process.returncode:
        words = " ".join(complaints.decode(errors="replace").split()[-60:])
        raise BuildFailed(f"`{' '.join(command[:2])}` failed: {words}; is `apt-get update` up to date?")
    return printed
