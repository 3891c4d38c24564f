"""The Docker driver against a real engine, with real packets."""

import asyncio
import hashlib
import io
import json
import socket
import tarfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from aiodocker import Docker, DockerError
from aiohttp import web

from drivers.contracts import InstanceSpec, PortBinding, Refused, hostname
from drivers.docker import BRIDGE, DockerCompute
from drivers.docker_container import name
from drivers.docker_images import reference
from drivers.linux_kernel import nft
from server import image_formats, images
from tests.drivers.contract import ComputeContract, free_port, read_until, settled, shell, until
from tests.drivers.wires import Wires, ip
from tests.engines import require

IMAGE = "busybox"
WAIT = shell("trap 'exit 0' TERM; while :; do sleep 600 & wait $!; done")
SERVE = shell("echo it is me > /tmp/index.html; exec httpd -f -p 8080 -h /tmp")


@pytest.fixture
async def engine() -> AsyncIterator[Docker]:
    require("docker")
    await images.build(IMAGE, say=print)
    async with Docker(url="unix:///var/run/docker.sock") as docker:
        yield docker


@pytest.fixture
async def driver(engine: Docker) -> AsyncIterator[DockerCompute]:
    driver = DockerCompute(cloud_id=f"test-{uuid4()}")
    yield driver
    for id in await driver.list():
        await driver.delete(id)
    await driver.close()


async def run_in(engine: Docker, id: UUID, *command: str) -> tuple[int, str]:
    """Exit code and output of a command run inside the instance."""
    process = await engine.containers.container(name(id)).exec(list(command))
    printed = b""
    async with process.start(detach=False) as stream:
        while piece := await stream.read_out():
            printed += piece.data
    return (await process.inspect())["ExitCode"], printed.decode()


async def processes(engine: Docker, id: UUID) -> list[str]:
    listed = await engine.containers.container(name(id)).top(ps_args="-eo pid,args")
    return [row[-1] for row in listed["Processes"]]


class TestDockerCompute(ComputeContract):
    IMAGE = IMAGE
    CMD = WAIT
    CANNOT = frozenset({"screen", "volumes"})

    @pytest.fixture
    def driver(self, driver: DockerCompute) -> DockerCompute:
        return driver

    # Images of it

    async def test_an_image_taken_of_it_has_what_was_changed_in_it(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec, other: InstanceSpec, tmp_path: Path
    ) -> None:
        await settled(driver, spec)
        assert await run_in(engine, spec.id, "sh", "-c", "echo changed > /tmp/file") == (0, "")
        file, id = tmp_path / "taken", uuid4()
        file.write_bytes(b"".join([piece async for piece in driver.snapshot(spec.id)]))
        await driver.delete(spec.id)
        assert await driver.list_images() == set()
        listed = await engine.images.list()
        assert not [each for each in listed if any(driver._cloud_id in tag for tag in each["RepoTags"] or ())]
        archive = await image_formats.archive_of(file, 2**30)
        while not await driver.load_image(id, archive):
            pass
        await settled(driver, replace(other, image=driver.image_name(id), cmd=()))
        assert await run_in(engine, other.id, "cat", "/tmp/file") == (0, "changed\n")
        await driver.delete(other.id)
        await driver.remove_image(id)

    # What the container is

    async def test_the_container_is_named_and_labelled_after_the_instance(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec
    ) -> None:
        await settled(driver, spec)
        box = await engine.containers.container(f"thecloud-{spec.id}").show()
        assert box["Config"]["Labels"] == {
            "thecloud.image": "1",
            "thecloud.cloud": driver._cloud_id,
            "thecloud.instance": str(spec.id),
            "thecloud.name": "web-01",
            "thecloud.tenant": str(spec.tenant_id),
        }
        assert await run_in(engine, spec.id, "hostname") == (0, "web-01\n")

    async def test_the_limits_are_the_kernels(self, driver: DockerCompute, engine: Docker, spec: InstanceSpec) -> None:
        await settled(driver, spec)
        await driver.apply(replace(spec, vcpus=0.25, memory_mb=96))
        look = (
            "cd /sys/fs/cgroup;"
            " if [ -d memory ]; then cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us;"
            " else cat memory.max pids.max; cut -d' ' -f1 cpu.max; fi"
        )
        assert await run_in(engine, spec.id, *shell(look)) == (0, f"{96 * 2**20}\n4096\n25000\n")
        host = (await engine.containers.container(name(spec.id)).show())["HostConfig"]
        assert host["MemorySwap"] in (host["Memory"], -1)  # -1 where the kernel counts no swap
        assert host["SecurityOpt"] == ["no-new-privileges"]

    async def test_a_busy_instance_uses_its_share_of_a_processor(
        self, driver: DockerCompute, spec: InstanceSpec
    ) -> None:
        await settled(driver, replace(spec, vcpus=0.5, cmd=shell("while :; do :; done")))

        async def busy() -> bool:
            return 25 < (await driver.stats(spec.id)).cpu_percentage < 75

        await until(busy)

    async def test_an_image_whose_command_is_a_shell_keeps_running(
        self, driver: DockerCompute, spec: InstanceSpec
    ) -> None:
        seen = await settled(driver, replace(spec, cmd=()))
        assert seen.power == "RUNNING"
        assert (await driver.apply(replace(spec, cmd=()))) == seen

    async def test_logs_are_cut_to_the_last_mebibyte(self, driver: DockerCompute, spec: InstanceSpec) -> None:
        spec = replace(spec, cmd=shell("yes 0123456789 | head -c 3300000; echo the end"))
        await self.ended(driver, spec)

        async def printed() -> bool:
            kept = await driver.logs(spec.id, tail=1_000_000)
            return len(kept) == 2**20 and kept.endswith(b"the end\n")

        await until(printed)

    async def test_logs_have_what_went_to_either_output(self, driver: DockerCompute, spec: InstanceSpec) -> None:
        spec = replace(spec, cmd=shell("echo café; echo wrong >&2"))
        await self.ended(driver, spec)

        async def printed() -> bool:
            return sorted((await driver.logs(spec.id, tail=10)).splitlines()) == ["café".encode(), b"wrong"]

        await until(printed)

    async def test_a_container_made_but_never_started_is_finished(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec
    ) -> None:
        await driver._create(spec)
        made = await driver.observe(spec.id)
        assert made is not None
        assert (made.power, made.exit_code) == ("STOPPED", None)
        seen = await driver.apply(spec)
        assert (seen.power, seen.backend_id) == ("RUNNING", made.backend_id)

    # Network

    async def test_instances_do_not_reach_each_other(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec, other: InstanceSpec
    ) -> None:
        server = await settled(driver, replace(spec, cmd=SERVE))
        await settled(driver, other)
        fetch = ("busybox", "timeout", "2", "busybox", "wget", "-q", "-O", "-", f"http://{server.private_ip}:8080/")

        async def serves_itself() -> bool:
            return await run_in(engine, spec.id, *fetch) == (0, "it is me\n")

        await until(serves_itself)
        code, printed = await run_in(engine, other.id, *fetch)
        assert code != 0
        assert "it is me" not in printed
        code, _ = await run_in(
            engine, other.id, *shell(f"busybox timeout 2 busybox nc {server.private_ip} 8080 </dev/null")
        )
        assert code != 0
        code, _ = await run_in(engine, other.id, "ping", "-c", "1", "-W", "1", str(server.private_ip))
        assert code != 0

    async def test_instances_do_not_reach_link_local_addresses(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec
    ) -> None:
        """Of the host, nor beyond it; and both are there to be reached, but for the guard."""
        require("nftables")
        with ExitStack() as stack:
            box, link = Wires(stack).box(), f"t{uuid4().hex[:8]}"
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", Path(box.path).name)
            stack.callback(ip, "link", "delete", link)
            ip("address", "add", "169.254.77.1/30", "dev", link)
            ip("link", "set", link, "up")
            for what in (
                "address add 169.254.77.2/30 dev eth0",
                "link set eth0 up",
                "route add default via 169.254.77.1",
            ):
                ip("-n", Path(box.path).name, *what.split())
            await settled(driver, spec)

            async def reached() -> list[bool]:
                found = [await run_in(engine, spec.id, "ping", "-c", "1", "-W", "1", f"169.254.77.{n}") for n in (1, 2)]
                return [code == 0 for code, _ in found]

            assert await reached() == [False, False]
            nft(f"delete table inet {BRIDGE}_guard")
            assert await reached() == [True, True]
            await driver.apply(replace(spec, power="STOPPED"))
            await settled(driver, spec)
            assert await reached() == [False, False]

    async def test_a_network_that_went_missing_is_made_again_once(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec, other: InstanceSpec
    ) -> None:
        await settled(driver, replace(spec, power="STOPPED"))
        try:
            await engine._query_json("networks/thecloud", "DELETE")
        except DockerError:
            pytest.skip("another instance uses the network")
        others = [replace(other, id=uuid4()) for _ in range(6)]
        for seen in await asyncio.gather(*(driver.apply(one) for one in (spec, other, *others))):
            assert seen.power == "RUNNING"
            assert seen.private_ip
        networks = await engine._query_json("networks", params={"filters": json.dumps({"label": ["thecloud.network"]})})
        assert [network["Name"] for network in networks] == ["thecloud"]

    async def test_a_port_any_program_listens_on_is_refused(self, driver: DockerCompute, spec: InstanceSpec) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            published = replace(spec, ports=(PortBinding(host=port, container=80),))
            with pytest.raises(Refused, match=f"port {port} of the host is taken; choose another, or 0"):
                await driver.check(published)
            assert f"port {port} of the host is taken" in await self.refused(driver, published)

    async def test_a_stopped_instance_whose_port_was_taken_is_refused_and_kept(
        self, driver: DockerCompute, spec: InstanceSpec
    ) -> None:
        port = free_port()
        published = replace(spec, ports=(PortBinding(host=port, container=80),))
        await settled(driver, published)
        stopped = await driver.apply(replace(published, power="STOPPED"))
        with socket.create_server(("127.0.0.1", port)), pytest.raises(Refused, match=str(port)):
            await driver.apply(published)
        kept = await driver.observe(spec.id)
        assert kept is not None
        assert (kept.power, kept.backend_id) == ("STOPPED", stopped.backend_id)
        assert (await driver.apply(published)).power == "RUNNING"

    # Whose it is

    async def test_a_new_driver_finds_what_the_old_one_made(self, driver: DockerCompute, spec: InstanceSpec) -> None:
        seen = await settled(driver, spec)
        again = DockerCompute(driver._cloud_id)
        assert await again.list() == {spec.id: seen}
        assert await again.apply(spec) == seen
        await again.close()

    async def test_another_cloud_on_the_engine_is_not_listed(self, driver: DockerCompute, spec: InstanceSpec) -> None:
        await settled(driver, spec)
        stranger = DockerCompute(cloud_id=f"test-{uuid4()}")
        assert await stranger.list() == {}
        await stranger.close()

    async def test_an_engine_that_is_away_is_an_error_worth_retrying(self, spec: InstanceSpec) -> None:
        away = DockerCompute(cloud_id="test", url="unix:///nowhere/docker.sock")
        for call in (away.capacity(), away.apply(spec), away.check(spec), away.delete(spec.id)):
            with pytest.raises(DockerError):
                await call
        await away.close()

    # Console

    async def test_a_closed_console_leaves_no_shell_behind(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec
    ) -> None:
        await settled(driver, spec)
        before = await processes(engine, spec.id)
        terminal = await driver.console(spec.id)
        await terminal.resize(123, 45)
        await terminal.write(b"stty size; echo $((6 * 7)); sleep 1234\n")
        printed = await read_until(terminal, b"42")
        assert b"45 123" in printed

        async def sleeps() -> bool:
            return "sleep 1234" in await processes(engine, spec.id)

        async def is_as_before() -> bool:
            return await processes(engine, spec.id) == before

        await until(sleeps)
        await terminal.close()
        await until(is_as_before)

    async def test_a_shell_that_ignores_hangups_is_ended_too(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec
    ) -> None:
        await settled(driver, spec)
        before = await processes(engine, spec.id)
        terminal = await driver.console(spec.id)
        await terminal.write(b"trap '' HUP TERM INT; echo stub''born\n")
        await read_until(terminal, b"stubborn")
        await terminal.close()

        async def is_as_before() -> bool:
            return await processes(engine, spec.id) == before

        await until(is_as_before)

    async def test_a_console_ends_when_its_shell_is_left(self, driver: DockerCompute, spec: InstanceSpec) -> None:
        await settled(driver, spec)
        terminal = await driver.console(spec.id)
        await terminal.write(b"exit\n")
        async with asyncio.timeout(10):
            async for _ in terminal.output():
                pass
        await terminal.close()

    async def test_an_image_without_a_shell_has_no_console(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec
    ) -> None:
        await settled(driver, spec)
        await run_in(engine, spec.id, "busybox", "rm", "/bin/sh")
        with pytest.raises(Refused, match="shell"):
            await driver.console(spec.id)

    # Pulling

    async def test_an_image_is_pulled_once_for_all_who_ask(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec, other: InstanceSpec
    ) -> None:
        async with Registry(engine) as registry:
            spec, other = replace(spec, image=registry.image), replace(other, image=registry.image)
            waiting = [await driver.apply(one) for one in (spec, other, spec)]
            assert {one.power for one in waiting} == {None}
            assert waiting[0].message == f"pulling {registry.image}:latest"
            assert await driver.list() == {}
            async with asyncio.TaskGroup() as group:
                group.create_task(driver.check(spec))
                registry.gate.set()
            assert (await settled(driver, spec)).power == "RUNNING"
            assert (await settled(driver, other)).power == "RUNNING"
            assert registry.pulls == 1

    async def test_a_failed_pull_is_told_once_and_then_tried_again(
        self, driver: DockerCompute, engine: Docker, spec: InstanceSpec
    ) -> None:
        async with Registry(engine) as registry:
            spec = replace(spec, image=registry.image)
            registry.broken = True
            registry.gate.set()
            assert "thecloud images build" in await self.refused(driver, spec)
            registry.broken = False
            assert (await settled(driver, spec)).power == "RUNNING"

    async def test_closing_the_driver_gives_up_its_pulls(self, engine: Docker, spec: InstanceSpec) -> None:
        async with Registry(engine) as registry:
            driver = DockerCompute(cloud_id=f"test-{uuid4()}")
            assert (await driver.apply(replace(spec, image=registry.image))).power is None
            await driver.close()
            assert all(pull.done() for pull in driver._images._pulls.values())


class Registry:
    """A registry on this host that has busybox and answers only once its gate is open."""

    def __init__(self, engine: Docker) -> None:
        self.engine = engine
        self.gate = asyncio.Event()
        self.broken = False
        self.pulls = 0
        self.port = free_port()
        self.image = f"127.0.0.1:{self.port}/team/busybox"
        self._blobs: dict[str, bytes] = {}

    async def __aenter__(self) -> "Registry":
        async with self.engine._query(f"images/{reference(IMAGE)}/get") as response:
            exported = io.BytesIO(await response.read())
        with tarfile.open(fileobj=exported) as saved:
            [entry] = json.loads(self._member(saved, "manifest.json"))
            config = self._member(saved, entry["Config"])
            layers = [self._member(saved, path) for path in entry["Layers"]]
        kind = "application/vnd.docker."
        self._manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{kind}distribution.manifest.v2+json",
                "config": self._blob(config, f"{kind}container.image.v1+json"),
                "layers": [self._blob(layer, f"{kind}image.rootfs.diff.tar") for layer in layers],
            }
        ).encode()
        app = web.Application()
        app.router.add_get("/v2/", self._hello)
        app.router.add_get("/v2/team/busybox/manifests/{tag}", self._send_manifest)
        app.router.add_get("/v2/team/busybox/blobs/{digest}", self._send_blob)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        await self._runner.cleanup()
        boxes = await self.engine.containers.list(all=True, filters=json.dumps({"ancestor": [self.image]}))
        for box in boxes:
            if box["Image"] == f"{self.image}:latest":
                await box.delete(force=True)
        with suppress(DockerError):  # never pulled
            await self.engine.images.delete(f"{self.image}:latest")

    @staticmethod
    def _member(archive: tarfile.TarFile, path: str) -> bytes:
        file = archive.extractfile(path)
        assert file is not None
        return file.read()

    def _blob(self, content: bytes, kind: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._blobs[digest] = content
        return {"mediaType": kind, "size": len(content), "digest": digest}

    async def _hello(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _send_manifest(self, request: web.Request) -> web.Response:
        self.pulls += request.match_info["tag"] == "latest" and request.method == "HEAD"
        await self.gate.wait()
        if self.broken:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}, status=404)
        return web.Response(
            body=self._manifest,
            content_type="application/vnd.docker.distribution.manifest.v2+json",
            headers={"Docker-Content-Digest": f"sha256:{hashlib.sha256(self._manifest).hexdigest()}"},
        )

    async def _send_blob(self, request: web.Request) -> web.Response:
        return web.Response(body=self._blobs[request.match_info["digest"]])


@pytest.mark.parametrize(
    ("label", "expected"),
    [("web-01", "web-01"), ("My Web_Server!", "my-web-server"), ("--", ""), ("grün", ""), ("x" * 80, "x" * 63)],
)
def test_a_host_name_is_legal(label: str, expected: str) -> None:
    assert hostname(label) == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("nginx", "nginx:latest"),
        ("nginx:1.25", "nginx:1.25"),
        ("host:5000/nginx", "host:5000/nginx:latest"),
        ("nginx@sha256:00", "nginx@sha256:00"),
    ],
)
def test_a_bare_image_means_its_latest(image: str, expected: str) -> None:
    assert reference(image) == expected
