"""Programs that try to get out of a sandbox: each is contained, and each gets out where there is no sandbox."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from llmsys.errors import Unavailable, UsageFault
from llmsys.tool_serve.sandbox import LandlockSeccomp, ProcessLimits, RlimitsOnly, choose_sandbox
from llmsys.tool_serve.sandbox.bubblewrap import Bubblewrap, find_bubblewrap
from llmsys.tool_serve.sandbox.landlock import missing_package

PYTHON = shutil.which("python3", path="/usr/bin:/bin")
"""One that every user can reach, whoever runs the tests."""
KINDS = ("bubblewrap", "landlock")
SECRET = "the secret of the parent"
TRY = """
import ctypes, os, signal, socket, sys
def attempt():
{body}
try:
    print("OUT", attempt())
except (OSError, MemoryError, RuntimeError) as error:
    print("contained", type(error).__name__)
"""


def sandbox_of(kind, limits=None):
    limits = limits or ProcessLimits()
    if kind == "rlimits":
        return RlimitsOnly(limits)
    if kind == "landlock":
        if missing_package() or PYTHON is None:
            pytest.skip("Landlock: no package, or no Python in /usr/bin")
        return LandlockSeccomp(limits)
    if (bwrap := find_bubblewrap()) is None:
        pytest.skip("no bubblewrap")
    return Bubblewrap(bwrap, limits)


def ran(kind, code, limits=None, **how):
    command = sandbox_of(kind, limits).command([PYTHON, "-I", "-c", code])
    return subprocess.run(command, env={}, capture_output=True, text=True, timeout=60, check=False, **how)


def tried(kind, body, **facts):
    lines = body.format(**facts).strip().splitlines()
    return ran(kind, TRY.format(body="".join(f"    {line}\n" for line in lines))).stdout


@pytest.fixture
def open_place():
    """A directory that every user may read and write: only a sandbox keeps a program from it."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o777)
    (place / "secret").write_text(SECRET)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def victim():
    process = subprocess.Popen(["sleep", "600"], env={"SECRET": SECRET})
    yield process
    process.kill()
    process.wait()


ESCAPES = {
    "write_outside": "return open('{place}/left', 'w').write('x')",
    "read_a_file": "return open('{place}/secret').read()",
    "read_through_a_link": """
link = '{place}/link' if os.access('{place}', os.W_OK) else '/tmp/link'
os.symlink('{place}/secret', link)
return open(link).read()
""",
    "read_through_the_root_of_another_process": "return open('/proc/{pid}/root{place}/secret').read()",
    "read_the_environment_of_another_process": "return open('/proc/{pid}/environ').read()",
    "connect_to_this_machine": "return socket.create_connection(('127.0.0.1', {port}), 5)",
    "signal_another_process": "return os.kill({pid}, signal.SIGTERM)",
    "lower_the_limits_of_another_process": """
import resource
return resource.prlimit({pid}, resource.RLIMIT_NOFILE, (7, 7))
""",
}


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("kind", [*KINDS, "rlimits"])
def test_what_gets_out_without_a_sandbox_is_contained_in_one(kind, escape, open_place, listener, victim):
    """The run under `rlimits` proves that the attempt is a real one."""
    said = tried(kind, ESCAPES[escape], place=open_place, port=listener, pid=victim.pid)

    if kind == "rlimits":
        assert said.startswith("OUT")
        return
    assert said.startswith("contained"), said
    assert victim.poll() is None
    assert sorted(os.listdir(open_place)) == ["secret"]


ATTEMPTS = {
    "shadow": "return open('/etc/shadow').read()",
    "public_address": "return socket.create_connection(('192.0.2.1', 80), 5)",
    "raw_socket": "return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "trace_another_process": """
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, {pid}, 0, 0) < 0:
    raise OSError(ctypes.get_errno(), 'ptrace')
""",
    "a_user_namespace": """
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000) < 0:
    raise OSError(ctypes.get_errno(), 'unshare')
""",
    "a_mount": """
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) < 0:
    raise OSError(ctypes.get_errno(), 'mount')
""",
    "become_root": "return os.setuid(0)",
    "write_a_program": "return open('/usr/bin/left', 'w')",
    "write_this_package": "return open('{package}', 'a')",
    "ten_gigabytes": "return len(bytearray(10 << 30))",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_attempt_at_the_machine_succeeds(kind, attempt, victim):
    package = Path(__file__).parents[2] / "llmsys" / "tool_serve" / "__init__.py"
    said = tried(kind, ATTEMPTS[attempt], pid=victim.pid, package=package)

    assert said.startswith("contained"), said


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_inherits_neither_environment_nor_files(kind, open_place):
    code = (
        "import os\nprint(sorted(set(os.environ) - {'PATH', 'HOME', 'LANG', 'TMPDIR', 'PWD', 'LC_CTYPE'}))\n"
        "for fd in range(3, 64):\n"
        "    try: print(fd, os.fstat(fd))\n"
        "    except OSError: pass\n"
    )
    with open(open_place / "secret") as secret:
        os.set_inheritable(secret.fileno(), True)
        command = sandbox_of(kind).command([PYTHON, "-I", "-c", code])
        run = subprocess.run(
            command, env={"SECRET": SECRET}, capture_output=True, text=True, timeout=60, check=False, close_fds=False
        )

    assert run.stdout == ("[]\n" if kind == "bubblewrap" else "['SECRET']\n")
    assert run.returncode == 0


BOMB = """
import os, time
children = 0
try:
    while children < 1000:
        if os.fork() == 0:
            time.sleep(600)
        children += 1
except OSError as error:
    print(children, type(error).__name__, flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="counts the processes of a user of its own, which only root can give")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_bomb_stays_within_its_bound_and_dies_with_its_group(kind):
    command = sandbox_of(kind, ProcessLimits(processes=20)).command([PYTHON, "-I", "-c", BOMB])
    with subprocess.Popen(command, env={}, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        said = process.stdout.readline()
        with contextlib.suppress(ProcessLookupError):  # it may all have ended with its first
            os.killpg(process.pid, signal.SIGKILL)
        rest = process.stdout.read()  # ends when the last that could write is dead

    assert said.endswith("BlockingIOError\n")
    assert int(said.split()[0]) < 20
    assert rest == ""


@pytest.mark.parametrize("kind", KINDS)
def test_no_program_leaves_its_group(kind):
    """In a namespace it may: all in it die with its first process."""
    said = tried(kind, "pid = os.fork()\nreturn os.setsid() if pid == 0 else os.waitpid(pid, 0)")

    assert ("contained" in said) == (kind == "landlock")


@pytest.mark.parametrize("kind", [*KINDS, "rlimits"])
def test_a_program_that_computes_for_too_long_is_ended(kind):
    run = ran(kind, "while True: pass", ProcessLimits(cpu_s=1))

    assert run.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU)


def test_a_file_that_grows_too_long_ends_its_program():
    run = ran("bubblewrap", "open('/tmp/x', 'wb').write(bytes(2 << 20))", ProcessLimits(file_bytes=1 << 20))

    assert "File too large" in run.stderr


def test_the_strongest_sandbox_is_chosen_and_a_wrong_name_refused():
    assert choose_sandbox().name == "bubblewrap"
    assert choose_sandbox("rlimits").name == "rlimits"
    with pytest.raises(UsageFault, match="expected one of auto, bubblewrap, landlock, rlimits"):
        choose_sandbox("jail")


def test_nothing_is_chosen_where_nothing_works(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho No permission to make namespaces >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(Unavailable, match="no sandbox: bubblewrap: No permission to make namespaces"):
        choose_sandbox("bubblewrap")
