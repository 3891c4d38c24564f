"""A web server with one file, which may behave in any way that real ones do, or worse."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class FileServer:
    """On loopback. What it does next can be set between requests; each item of a list is for one request."""

    data: bytes = b""
    etag: str = '"1"'
    ranges: bool = True
    length: bool = True  # tells the size; else the end of the connection is the end
    statuses: list[str] = field(default_factory=list)  # "503 Service Unavailable" in place of the file
    locations: dict[str, str] = field(default_factory=dict)  # redirects, by path
    break_after: list[int] = field(default_factory=list)  # bytes after which the connection is cut
    pause_at: int | None = None  # bytes after which it waits for `go_on`
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    paused: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[dict[str, str]] = field(default_factory=list)  # headers of each, with "path"
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/disk.img"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            headers["path"] = head[0].split()[1]
            self.requests.append(headers)
            await self._send(headers, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _send(self, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        if location := self.locations.get(headers["path"]):
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        if self.statuses:
            writer.write(f"HTTP/1.1 {self.statuses.pop(0)}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        start, lines = 0, [f"ETag: {self.etag}"] if self.etag else []
        found = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if self.ranges:
            lines.append("Accept-Ranges: bytes")
            if found and headers.get("if-range") == self.etag:
                start = int(found[1])
        status, total = "200 OK", len(self.data)
        if start:
            status = "206 Partial Content"
            lines.append(f"Content-Range: bytes {start}-{total - 1}/{total}")
        if self.length:
            lines.append(f"Content-Length: {total - start}")
        writer.write("\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode())
        end = min(total, start + self.break_after.pop(0)) if self.break_after else total
        if self.pause_at is not None and start < self.pause_at < end:
            writer.write(self.data[start : self.pause_at])
            await writer.drain()
            start = self.pause_at
            self.paused.set()
            await self.go_on.wait()
        writer.write(self.data[start:end])
        await writer.drain()


@asynccontextmanager
async def serving(file_server: FileServer) -> AsyncIterator[FileServer]:
    async with await asyncio.start_server(file_server.answer, "127.0.0.1", 0) as listening:
        file_server.port = listening.sockets[0].getsockname()[1]
        yield file_server
        file_server.go_on.set()
