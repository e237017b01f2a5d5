"""What a loopback Hub holds: repositories, their commits, and the errors that it answers with."""

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Commit:
    sha: str
    title: str
    files: dict[str, str]  # path -> sha256 of its content


@dataclass
class Repo:
    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        sha = self.refs.get(revision.removeprefix("refs/heads/"), revision)
        return next((commit for commit in self.commits if commit.sha == sha), None)


class HubError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str = "", body: Any = None) -> None:
        self.status, self.message, self.code, self.body = status, message, code, body


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
