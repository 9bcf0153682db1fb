"""Keep a copy of a volume in step.

python -m migration.replication serve FOLDER --listen HOST:PORT --certificates FOLDER
python -m migration.replication send VOLUME --to HOST:PORT --name NAME --certificates FOLDER
python -m migration.replication verify VOLUME --to HOST:PORT --name NAME --certificates FOLDER
python -m migration.replication certify AUTHORITY NAME FOLDER
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

# No linear algebra is done here: its threads would only take time to start and to wait.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from migration.replication.connecting import connected, server_context
from migration.replication.errors import ReplicationError
from migration.replication.nbd import NbdVolume
from migration.replication.pacing import EFFORTS, Pace
from migration.replication.receiver import Receiver
from migration.replication.sender import Progress, Request, send
from migration.replication.shadow import DIRECT, STAGED
from migration.replication.store import Store
from migration.replication.verification import verify
from migration.replication.volume import Volume, open_volume

FAILED, RETRIABLE = 1, 75  # as in sysexits.h: EX_TEMPFAIL
MBIT = 1e6 / 8


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        result: int = options.run(options)
        return result
    except ReplicationError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return RETRIABLE if error.retriable else FAILED


def _serve(options: argparse.Namespace) -> int:
    context = server_context(options.certificates) if options.certificates else None
    store = Store(options.folder, dict(options.volume).get)
    exports = None
    if options.exports:
        # Loaded where it is needed only: an end starts for every pass.
        from migration.replication.filling import Exports
        from migration.replication.nbd_server import NbdServer

        exports = Exports(store)
        server = NbdServer(exports, _unix_listener(options.exports))
        threading.Thread(target=server.serve, daemon=True).start()
    listener = socket.create_server(options.listen)
    host, port = listener.getsockname()[:2]
    print(f"listening on {host}:{port}", flush=True)
    Receiver(store, listener, context, exports).serve()
    return 0


def _unix_listener(path: Path) -> socket.socket:
    """Only for this user's processes."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen()
    return listener


def _send(options: argparse.Namespace) -> int:
    pace = Pace(options.limit_mbit * MBIT) if options.limit_mbit else None
    connect = partial(connected, *options.to, certificates=options.certificates, name=options.peer)
    request = Request(
        options.name,
        options.cache / options.name,
        mode=DIRECT if options.direct or options.started else STAGED,
        reads=connect if options.started else None,
        is_promoted=options.started,
        base=options.base,
        first=_ranges(options.first) if options.first else (),
        effort=options.effort,
        is_consistent=not options.live,
    )
    with (
        open_volume(options.source, bitmap=getattr(options, "bitmap", None)) as source,
        connect(pace=pace) as channel,
    ):
        request = replace(request, changes=_changes(options, source))
        report = send(source, channel, request, progress=_teller(options.json))
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        print(
            f"recovery point {report.generation}: {_mb(report.changed_bytes)} changed, "
            f"{_mb(report.sent_bytes)} sent in {report.elapsed_s:.1f} s"
        )
    return 0


def _verify(options: argparse.Namespace) -> int:
    with (
        open_volume(options.source, bitmap=getattr(options, "bitmap", None)) as source,
        connected(*options.to, certificates=options.certificates, name=options.peer) as channel,
    ):
        found = verify(source, channel, options.name)
    if found.is_equal:
        print(f"equal, at recovery point {found.generation}")
        return 0
    print(
        f"{len(found.differing)} of {found.layout.n_supers} superblocks differ from the source, "
        f"the first at byte {found.differing[0] * found.layout.super_bytes}; "
        f"{len(found.damaged)} were changed by something else than replication. "
        "The next pass repairs them."
    )
    return FAILED


def _certify(options: argparse.Namespace) -> int:
    # What is only needed here takes a fifth of the time in which the rest is loaded.
    from migration.replication.certificates import Authority

    if not (options.authority / "authority.key").exists():
        Authority.create(options.authority)
    Authority(options.authority).issue(options.name, options.folder, days=options.days)
    return 0


def _teller(as_json: bool) -> Callable[[Progress], None]:
    last = [0.0]

    def tell(progress: Progress) -> None:
        if as_json or time.monotonic() - last[0] < 1:
            return
        last[0] = time.monotonic()
        left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
        print(
            f"{progress.phase}: {_mb(progress.scanned_bytes)} of {_mb(progress.to_scan_bytes)} "
            f"looked at, {_mb(progress.changed_bytes)} changed, {_mb(progress.sent_bytes)} sent"
            + left,
            file=sys.stderr,
        )

    return tell


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _changes(options: argparse.Namespace, source: Volume) -> list[tuple[int, int]] | None:
    if options.bitmap and isinstance(source, NbdVolume):
        return list(source.dirty_ranges())
    return _ranges(options.changes) if options.changes else None


def _ranges(path: Path) -> list[tuple[int, int]]:
    """Of a JSON list of {"start": …, "length": …}, as `qemu-img map --output=json` prints."""
    try:
        ranges = [(int(r["start"]), int(r["start"]) + int(r["length"])) for r in _json(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is no list of ranges: {error!r}") from error
    return ranges


def _json(path: Path) -> list[dict[str, int]]:
    result: list[dict[str, int]] = json.loads(path.read_text())
    return result


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _place(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m migration.replication",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="take in what others send")
    serve.add_argument("folder", type=Path, help="of the shadows")
    serve.add_argument("--listen", type=_address, required=True, metavar="HOST:PORT")
    serve.add_argument(
        "--volume",
        type=_place,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="file, device or NBD export of one shadow; others are files in their folder",
    )
    serve.add_argument(
        "--exports",
        type=Path,
        metavar="SOCKET",
        help="where machines read what they run on, as nbd+unix:///NAME?socket=SOCKET",
    )
    serve.set_defaults(run=_serve)

    for name, run, about in (
        ("send", _send, "bring a shadow to what a volume holds"),
        ("verify", _verify, "compare all that both hold"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("source", help="file, device, or nbd://HOST/EXPORT")
        command.add_argument("--to", type=_address, required=True, metavar="HOST:PORT")
        command.add_argument("--name", required=True, help="of the shadow")
        command.add_argument("--peer", help="name in the other end's certificate, if not its host")
        command.set_defaults(run=run)
        if name == "send":
            _add_sending(command)

    for command in (serve, *(commands.choices[name] for name in ("send", "verify"))):
        secured = command.add_mutually_exclusive_group(required=True)
        secured.add_argument("--certificates", type=Path, help="folder of this relay's")
        secured.add_argument("--insecure", action="store_true", help="no TLS: whoever can connect")

    certify = commands.add_parser("certify", help="issue a relay's certificate")
    certify.add_argument("authority", type=Path, help="folder; made if there is none")
    certify.add_argument("name", help="of the relay, by which others connect to it")
    certify.add_argument("folder", type=Path, help="for the relay")
    certify.add_argument("--days", type=float, default=90)
    certify.set_defaults(run=_certify)
    return parser


def _add_sending(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cache", type=Path, required=True, help="folder; may be lost")
    command.add_argument("--direct", action="store_true", help="write as blocks come")
    command.add_argument("--base", help="a shadow that a new one begins with a copy of")
    command.add_argument("--changes", type=Path, help="JSON ranges outside which nothing changed")
    command.add_argument("--bitmap", help="of QEMU: send what it says is dirty")
    command.add_argument("--first", type=Path, help="JSON ranges to send before the rest")
    command.add_argument(
        "--started",
        action="store_true",
        help="a machine runs on the shadow already: answer what it reads before it has come",
    )
    command.add_argument("--effort", choices=EFFORTS, help="of compression; else by the link")
    command.add_argument("--limit-mbit", type=float, help="megabits a second")
    command.add_argument("--live", action="store_true", help="the volume is being written to")
    command.add_argument("--json", action="store_true")


if __name__ == "__main__":
    sys.exit(main())
