"""What can go wrong between two ends.

ReplicationError
├── VolumeFailed         a volume cannot be read or written; retrying helps once it is back
├── NoSpace              the destination is full; retrying helps once there is room
├── Busy                 somebody else works on the shadow; retrying helps once they are done
├── Interrupted          the other end went away; retrying resumes
├── Refused              the other end said no, and why; retrying changes nothing
├── ProtocolBroken       what came is not of this protocol; retrying changes nothing
└── Corrupted            content is not what it should be, and sending it again did not help

Every message is a sentence for an operator: what, and where.
"""

from __future__ import annotations


class ReplicationError(Exception):
    retriable = False
    # How the error is called on the wire.
    code = "failed"


class VolumeFailed(ReplicationError):
    retriable = True
    code = "volume-failed"


class NoSpace(ReplicationError):
    retriable = True
    code = "no-space"


class Busy(ReplicationError):
    retriable = True
    code = "busy"


class Interrupted(ReplicationError):
    retriable = True
    code = "interrupted"


class Refused(ReplicationError):
    code = "refused"


class ProtocolBroken(ReplicationError):
    code = "protocol-broken"


class Corrupted(ReplicationError):
    code = "corrupted"


BY_CODE: dict[str, type[ReplicationError]] = {
    kind.code: kind
    for kind in (VolumeFailed, NoSpace, Busy, Interrupted, Refused, ProtocolBroken, Corrupted)
}
