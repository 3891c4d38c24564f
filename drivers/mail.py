"""Mail: to an SMTP server, or as files in a folder where none is configured."""

import asyncio
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID

TIMEOUT = 20.0  # seconds for each step of the conversation


def message(id: UUID, sender: str, to: str, subject: str, text: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = sender, to, subject
    made["Date"], made["Message-ID"] = formatdate(), make_msgid(str(id), sender.rpartition("@")[2])
    made.set_content(text)
    return made


class Smtp:
    """Sends through a server: smtp://user:password@host:587 (STARTTLS where offered) or smtps://…:465."""

    def __init__(self, url: str, sender: str) -> None:
        self._url, self._sender = urlsplit(url), sender

    async def send(self, id: UUID, to: str, subject: str, text: str) -> None:
        await asyncio.to_thread(self._send, message(id, self._sender, to, subject, text))

    def _send(self, mail: EmailMessage) -> None:
        url = self._url
        host, secure = url.hostname or "localhost", url.scheme == "smtps"
        context = ssl.create_default_context()
        if secure:
            client: smtplib.SMTP = smtplib.SMTP_SSL(host, url.port or 465, timeout=TIMEOUT, context=context)
        else:
            client = smtplib.SMTP(host, url.port or 25, timeout=TIMEOUT)
        with client:
            client.ehlo()
            if not secure and client.has_extn("starttls"):
                client.starttls(context=context)
                client.ehlo()
            if url.username:
                client.login(unquote(url.username), unquote(url.password or ""))
            client.send_message(mail)


class Outbox:
    """Writes each message to a file that only the server's user may read."""

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder, self._sender = folder, sender

    async def send(self, id: UUID, to: str, subject: str, text: str) -> None:
        await asyncio.to_thread(self._write, id, message(id, self._sender, to, subject, text))

    def _write(self, id: UUID, mail: EmailMessage) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._folder / f".{id}.draft"
        draft.touch(mode=0o600)
        draft.write_bytes(mail.as_bytes())
        draft.rename(self._folder / f"{id}.eml")
