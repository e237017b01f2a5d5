"""The loopback Hub with Xet, the client's default way for large files.

The client is given `local://FOLDER` instead of a content-addressed store and writes chunks there itself; only which
file has which Xet hash is read off that folder, so that it can be downloaded again.
"""

import re
import struct
from pathlib import Path
from typing import Any

from hub_server import LFS_SUFFIXES, Handler, Hub, HubError


TOKEN = r"/api/models/(?P<name>[^/]+/[^/]+)/xet-(?P<mode>read|write)-token/(?P<rev>[^/]+)"


class XetHub(Hub):
    """Large files live in `folder`, not in the server's memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(XetHandler)
        self.folder = folder

    def xet_files(self) -> dict[str, tuple[str, int]]:
        """sha256 -> Xet hash and size of every file that was uploaded, from the shards that the client wrote."""
        found = {}
        for shard in self.folder.rglob("*.mdb"):
            found |= read_shard(shard.read_bytes())
        return found


def read_shard(content: bytes) -> dict[str, tuple[str, int]]:
    """sha256 -> Xet hash and size: 48-byte rows, see the description of the format in the Xet client."""
    found, at = {}, 48
    while content[at : at + 32] != b"\xff" * 32:
        name, flags, segments = content[at : at + 32], *struct.unpack_from("<II", content, at + 32)
        rows = [content[at + 48 * (1 + i) : at + 48 * (2 + i)] for i in range(segments)]
        size = sum(struct.unpack_from("<I", row, 36)[0] for row in rows)
        at += 48 * (1 + segments * (2 if flags >> 31 & 1 else 1))
        if flags >> 30 & 1:
            found[as_hex(content[at : at + 32])] = (as_hex(name), size)
            at += 48
    return found


def as_hex(digest: bytes) -> str:
    """Hashes are four little-endian 64-bit numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


class XetHandler(Handler):
    hub: Any

    def route(self, body: bytes) -> None:
        if asked := re.fullmatch(TOKEN, self.path_only):
            if not self.authorised:
                raise HubError(401, "Invalid username or password.")
            self.repo("models", asked["name"])
            url = f"local://{self.hub.folder}"
            headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": "4000000000"}
            self.reply({"casUrl": url, "exp": 4000000000, "accessToken": "xet"}, headers=headers)
            return
        super().route(body)

    def lfs_batch(self, body: bytes, name: str, kind: str = "models") -> None:
        raise HubError(400, "this Hub takes large files over Xet")

    def lfs_size(self, oid: str) -> int:
        return self.hub.xet_files().get(oid, ("", -1))[1]

    def row(self, path: str, digest: str) -> dict[str, Any]:
        if not path.endswith(LFS_SUFFIXES):
            return super().row(path, digest)
        name, size = self.hub.xet_files()[digest]
        lfs = {"oid": digest, "size": size, "pointerSize": 130}
        return {"type": "file", "path": path, "size": size, "oid": digest[:40], "lfs": lfs, "xetHash": name}

    def reply_file(self, digest: str, path: str, headers: dict[str, str]) -> None:
        if not path.endswith(LFS_SUFFIXES):
            super().reply_file(digest, path, headers)
            return
        if self.command != "HEAD":
            raise HubError(400, "this Hub gives large files over Xet")
        name, size = self.hub.xet_files()[digest]
        page = f"{self.hub.url}/api/models{self.path_only.split('/resolve/')[0]}"
        headers |= {
            "ETag": f'"{digest}"',
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(size),
            "X-Xet-Hash": name,
            "Link": f'<{page}/xet-read-token/{headers["X-Repo-Commit"]}>; rel="xet-auth"',
        }
        self.reply(b"", headers=headers)
