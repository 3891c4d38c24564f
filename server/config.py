"""Settings, read from the environment once. Nothing else reads `os.environ`."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


def default_data() -> Path:
    """`.thecloud` in the current folder."""
    return Path.cwd() / ".thecloud"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Each field `name` is the variable `THECLOUD_NAME` and, where it has one, the flag `--name`."""

    data: Path = field(default_factory=default_data)  # folder of the embedded database, keys and the outbox
    database_url: str = ""  # PostgreSQL; empty: the embedded server
    http: str = "127.0.0.1:8080"  # address of REST; port 0 picks one
    grpc: str = "127.0.0.1:50051"  # address of gRPC; port 0 picks one
    s3: str = "127.0.0.1:9000"  # address of the S3 protocol; port 0 picks one, empty: none
    s3_domain: str = "localhost"  # BUCKET.DOMAIN is a host of its own there; empty: buckets are only in paths
    public_url: str = ""  # how clients reach REST, for the addresses in answers; empty: http
    tls_cert: str = ""  # PEM files, for REST, gRPC and S3; needed to listen beyond loopback
    tls_key: str = ""
    insecure: bool = False  # listen beyond loopback without TLS
    workers: int = 1  # server processes
    host: str = "local"  # this machine's name among those that run instances
    compute: str = "docker"  # the compute drivers, separated by commas: docker, libvirt
    network: str = "linux"  # the network driver: a module of drivers/
    ovn_northbound: str = "unix:/run/ovn/ovnnb_db.sock"  # of the driver ovn: OVN's northbound database
    ovn_southbound: str = "unix:/run/ovn/ovnsb_db.sock"  # and its southbound one
    ovs_database: str = "unix:/run/openvswitch/db.sock"  # and that of this host's Open vSwitch
    libvirt_uri: str = "qemu:///system"  # of the driver libvirt: where libvirtd answers
    libvirt_folder: Path = Path("/var/lib/thecloud-libvirt")  # and the files of its virtual machines
    volumes: str = "directory"  # the driver of volumes: a module of drivers/
    rbd_pool: str = "rbd"  # of the driver rbd: the Ceph pool that volumes are in
    rbd_conf: str = "/etc/ceph/ceph.conf"  # and where Ceph is
    rbd_id: str = "admin"  # and the name of its user there, without `client.`
    objects: str = "files"  # the driver of objects: a module of drivers/
    objects_small: int = 16 * 1024  # bytes up to which objects are in the database; 0: none
    objects_s3_endpoint: str = ""  # of the driver s3: the URL of the S3 server that objects are kept in
    objects_s3_bucket: str = ""  # and the bucket there, which is
    objects_s3_access_key: str = ""  # and whose it is
    objects_s3_secret_key: str = ""
    objects_s3_region: str = "us-east-1"  # and where, if the server cares
    sealing_key: str = ""  # file with the key of secrets, the same on all hosts; empty: sealing.key in the data folder
    external_network: str = "100.64.0.0/16"  # that elastic IPs are addresses of; its first is the gateway's
    image_bytes: int = 10 * 2**30  # the largest file of an image
    image_disk_gb: int = 100  # the largest disk that may be in one, in GiB
    image_spare_bytes: int = 2 * 2**30  # of the data folder's file system that images leave free
    object_bytes: int = 5 * 2**30  # the largest object, and the largest part of one
    scrub_days: int = 7  # after which an object is read again to see whether it is whole; 0: never
    scrub_bytes: int = 10 * 2**20  # of them that one host reads a second; 0: no limit
    import_seconds: float = 3600.0  # the longest that one import may take
    egress_allow: str = ""  # networks inside that users' URLs may lead to after all, separated by commas
    publish: str = "127.0.0.1"  # address of this machine that instances' ports are published on
    concurrency: int = 16  # reconcilers at once in one process
    lease_seconds: float = 10.0  # how long the work of a process that died stays its own
    deadline_seconds: float = 30.0  # of a call whose client sets none, and the longest a client may set
    grace_seconds: float = 20.0  # for calls and reconcilers to finish at a stop
    slow_reader_seconds: float = 10.0  # that a reader of a stream may let it wait
    idle_seconds: float = 30.0  # that a client may let the server wait for more of what it sends as a stream
    body_bytes: int = 2**20  # the largest JSON body
    rate_limit: int = 60_000  # calls a minute of one user, in one process; 0: no limit
    streams: int = 100  # open at once of one user, in one process; 0: no limit
    auth_rate_limit: int = 5  # calls a minute and address of the four methods that need no key; 0: no limit
    log_days: int = 30  # how long logs are kept
    log_lines: int = 100_000  # the most that are kept of one resource
    change_days: int = 30  # how long the change log is kept, for watches and the inventory of the past
    pool_size: int = 20  # database connections of one process
    trusted_proxies: str = ""  # addresses, separated by commas, whose X-Forwarded-For is believed
    cors_origins: str = ""  # origins that browsers may call from, separated by commas; "*" for any
    metrics_token: str = ""  # lets scrapers beyond loopback read /metrics
    smtp_url: str = ""  # smtp://user:password@host:port for mail; empty: files in the outbox
    mail_from: str = "thecloud@localhost"  # sender of mail
    log_level: str = "info"  # debug, info, warning, error
    log_format: str = "auto"  # json, text, or auto: text on a terminal

    def socket_folder(self) -> Path:
        """A short path for the embedded server's unix socket, whose names may have 107 bytes at most."""
        return Path(tempfile.gettempdir())


class BadConfig(Exception):
    """A setting that cannot be; the text says what to change."""


def read(environment: Mapping[str, str] = os.environ, **flags: Any) -> Config:
    """The settings: flags that are not None, else THECLOUD_… variables, else defaults."""
    values: dict[str, Any] = {}
    for setting in fields(Config):
        flag = flags.get(setting.name)
        text = environment.get(f"THECLOUD_{setting.name.upper()}")
        if flag is not None:
            values[setting.name] = flag
        elif text is not None:
            values[setting.name] = _parse(setting.name, setting.type, text)
    return Config(**values)


def _parse(name: str, kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("", "0", "1", "false", "true", "no", "yes"):
            raise BadConfig(f"THECLOUD_{name.upper()} is {text!r}; it wants 1 or 0")
        return text.lower() in ("1", "true", "yes")
    try:
        return kind(text)
    except ValueError:
        raise BadConfig(f"THECLOUD_{name.upper()} is {text!r}; it wants a {kind.__name__}") from None
