"""Which file system holds a folder: the store's locks are only trusted on a local disk."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/mounts")
# By name, as the kernel writes it. Shared folders of virtual machines (9p, virtiofs) are not among them: whole systems run on those.
_NETWORK = re.compile(
    r"^(?:nfs\d?|cifs|smb\d?|smbfs|afs|ceph|lustre|glusterfs|beegfs|ncpfs|davfs|"
    r"fuse\.(?:sshfs|s3fs|rclone|glusterfs|ceph\S*|davfs\S*|gcsfuse|smb\S*|curlftpfs|juicefs|mount-s3|blobfuse\S*))$"
)


def network_file_system(folder: Path, mounts: Path = MOUNTS) -> str:
    """The type of the network file system that `folder` is (or will be) on; empty on a local disk, or where this cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""  # no Linux
    resolved = folder.resolve()
    longest, found = -1, ""
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        mount = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
        if resolved.is_relative_to(mount) and len(mount.parts) >= longest:  # >=: a later mount hides an earlier one
            longest, found = len(mount.parts), kind
    return found if _NETWORK.match(found) else ""
