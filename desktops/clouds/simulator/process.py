"""The simulated cloud's process: arguments, signals, and the line that says it is ready."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from desktops.clouds.simulator.service import Service
from desktops.clouds.simulator.simulation import Settings, open_simulation
from desktops.clouds.simulator.store import StoreError

TOKEN_VARIABLE = "SIMULATOR_TOKEN"
MINIMUM_TOKEN_LENGTH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0: a free one")
    parser.add_argument("--store", type=Path, required=True, help="SQLite file, made when absent")
    parser.add_argument("--speed", type=float, default=10.0, help="simulated per real second")
    parser.add_argument("--seed", type=int, default=1, help="of latencies and chance")
    parser.add_argument(
        "--exit-with-stdin",
        action="store_true",
        help="end when standard input is closed, so that no orphan outlives whoever started it",
    )


def serve(
    *, port: int, store: Path, speed: float, seed: int, exit_with_stdin: bool = False
) -> str | None:
    """Answer requests until a signal comes; returns why it could not start, else None."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if len(token) < MINIMUM_TOKEN_LENGTH:
        return f"{TOKEN_VARIABLE} must hold a secret of at least {MINIMUM_TOKEN_LENGTH} characters"
    if not speed > 0:
        return "--speed must be greater than 0"
    try:
        simulation = open_simulation(store, Settings(speed=speed, seed=seed))
    except StoreError as error:
        return str(error)
    try:
        try:
            service = Service(simulation, port=port, token=token)
        except (OSError, OverflowError) as error:
            return f"port {port}: {error}"
        with service:
            _serve_until_told(service, exit_with_stdin)
    finally:
        simulation.close()
    return None


def _serve_until_told(service: Service, exit_with_stdin: bool) -> None:
    def stop(*_: object) -> None:
        # shutdown() waits for the serving thread, which is the one that runs signal handlers.
        threading.Thread(target=service.shutdown).start()

    def watch_stdin() -> None:
        # Not sys.stdin, whose lock a reading daemon thread would still hold at exit.
        while os.read(0, 4096):
            pass
        stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if exit_with_stdin:
        threading.Thread(target=watch_stdin, daemon=True).start()
    print(f"The simulated cloud answers at {service.url}", flush=True)
    service.serve_forever(poll_interval=0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulated_cloud", description=__doc__)
    add_arguments(parser)
    problem = serve(**vars(parser.parse_args(arguments)))
    if problem is not None:
        print(problem, file=sys.stderr)
        return 1
    return 0
