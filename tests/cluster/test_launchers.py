"""cluster/up.sh, submit.sh and down.sh against three hosts, and what they refuse."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import Host, Listener, wait_for
from rayhosts import token_environment
from repository import REPOSITORY

from ffpipe import override, recipe, train

CLUSTER = REPOSITORY / "cluster"
PORT = 7000
WORKER_PORTS = range(PORT + 100, PORT + 1100)


def launcher_environment(hosts: list[Host], folder: Path) -> dict[str, str]:
    """Return an environment for the launchers: hosts are reached by entering their namespaces, and have this Python's
    environment."""
    reach = folder / "reach"
    cases = "".join(f'{host.name}) set -- {" ".join(host.command())} "$@" ;;\n' for host in hosts)
    reach.write_text(f'#!/bin/sh\nhost=$1; shift; cd {folder}\ncase $host in\n{cases}*) exit 255 ;;\nesac\nexec "$@"\n')
    reach.chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    return plain | {
        "FFPIPE_SSH": str(reach),
        "FFPIPE_FOLDER": str(folder / "remote"),
        "FFPIPE_BIN": str(Path(sys.executable).parent),
        "FFPIPE_PORT": str(PORT),
        "FFPIPE_RAY": "--num-cpus=1 --num-gpus=0 --object-store-memory=150000000",
        "XDG_STATE_HOME": str(folder / "state"),
        "TMPDIR": str(folder / "disk"),
        "OMP_NUM_THREADS": "1",
    }


def launch(script: str, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(CLUSTER / script), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)


def is_named(listener: Listener, head: bool) -> bool:
    """Return whether cluster/README.md says that there is such a listener."""
    if listener.is_local:
        return True
    of_head = {PORT, PORT + 7, PORT + 8}
    everywhere = set(range(PORT + 1, PORT + 7)) | set(WORKER_PORTS)
    return listener.port in (everywhere | of_head if head else everywhere)


@pytest.mark.long
def test_up_train_down(hosts: list[Host], short_folder: Path) -> None:
    env = launcher_environment(hosts, short_folder)
    fields = {"training.epochs": 10, "execution.engine": "local", "execution.run_dir": str(short_folder / "local")}
    digest = train(override(recipe("digits"), fields)).weights_sha256

    up = launch("up.sh", "host1", "host2", "host3", env=env)
    assert up.returncode == 0, up.stdout + up.stderr
    assert f"3 host(s) at {hosts[0].address}:{PORT}: 3 CPU, 0 GPU" in up.stdout
    again = launch("up.sh", "host1", env=env)
    assert again.returncode == 2
    assert "cluster/down.sh first" in again.stderr

    options = ("--epochs", "10", "--stages", "3", "--execution.cpus", "1", "--run-dir", "runs/the one")
    job = launch("submit.sh", "train", "digits", *options, env=env)
    assert job.returncode == 0, job.stdout + job.stderr
    run = short_folder / "remote" / "host1" / "runs" / "the one"
    assert f'"weights_sha256": "{digest}"' in (run / "summary.json").read_text()
    wrong = launch("submit.sh", "train", "nonsense", env=env)
    assert wrong.returncode == 1
    assert "ffpipe: " in wrong.stdout

    for number, host in enumerate(hosts):
        strange = [each for each in host.listeners() if not is_named(each, head=number == 0)]
        assert not strange
    assert any(each.port == PORT + 9 and each.is_local for each in hosts[0].listeners())
    refuses_strangers(hosts, short_folder)

    down = launch("down.sh", env=env)
    assert down.returncode == 0, down.stdout + down.stderr
    for host in hosts:
        assert host.processes() == []
        assert host.listeners() == []
        # The runs stay; nothing of Ray does.
        left = {path.name for path in (short_folder / "remote" / host.name).iterdir()}
        assert left <= {"package", "ray.log", "runs", ".cache"}
        assert host.run("ls", str(short_folder / "disk")).stdout == ""
    assert launch("down.sh", env=env).returncode == 2


def refuses_strangers(hosts: list[Host], home: Path) -> None:
    """Check that without the token there is no way into the cluster, nor to its jobs."""
    environment = {name: value for name, value in token_environment().items() if not name.startswith("RAY_AUTH")}
    environment["HOME"] = str(home)  # Ray looks for a token there
    listed = hosts[0].run("ray", "job", "list", f"--address=http://127.0.0.1:{PORT + 9}", env=environment)
    assert listed.returncode != 0
    assert "Authentication" in listed.stdout + listed.stderr
    environment["RAY_ADDRESS"] = f"{hosts[0].address}:{PORT}"
    done = hosts[1].run("ffpipe", "train", "digits", "--run-dir", str(home / "stranger"), env=environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no Ray cluster can be joined there" in done.stderr.splitlines()[-1]
    assert not (home / "stranger").exists()


@pytest.mark.long
def test_a_host_that_cannot_be_reached_leaves_nothing(hosts: list[Host], short_folder: Path) -> None:
    env = launcher_environment(hosts, short_folder)
    up = launch("up.sh", "host1", "host9", env=env)
    assert up.returncode == 1
    assert "host9" in up.stderr
    assert all(host.processes() == [] for host in hosts)
    wait_for("no state is left", lambda: not list((short_folder / "state").glob("ffpipe/*")), 5.0)


@pytest.mark.parametrize(
    ("script", "words", "changed", "says"),
    [
        ("up.sh", [], {}, "give the hosts: cluster/up.sh HEAD WORKER..."),
        ("up.sh", ["a", "b;c"], {}, "'b;c' is not a host"),
        ("up.sh", ["a", "-oProxyCommand=x"], {}, "is not a host"),
        ("up.sh", ["a", "b=::1"], {}, "=ADDRESS (IPv4 or a name, without a port)"),
        ("up.sh", ["a", "b=192.0.2.1:6379"], {}, "=ADDRESS (IPv4 or a name, without a port)"),
        ("up.sh", ["a", "a"], {}, "a is given twice"),
        ("up.sh", ["a"], {"FFPIPE_PORT": "80"}, "give a number from 1024"),
        ("up.sh", ["a"], {"FFPIPE_FOLDER": "a b"}, "FFPIPE_FOLDER is 'a b'"),
        ("up.sh", ["a"], {"FFPIPE_SSH": "no-such-command"}, "FFPIPE_SSH is 'no-such-command'"),
        ("up.sh", ["a"], {"FFPIPE_PIP": "--index-url http://a/?b&c"}, "go through a shell on the hosts"),
        ("submit.sh", [], {}, "give what ffpipe is to do"),
        ("submit.sh", ["train"], {}, "cluster/up.sh HEAD WORKER... first"),
        ("down.sh", [], {}, "no cluster of port"),
        ("down.sh", ["--all"], {}, "'--all' is not known"),
    ],
)
def test_wrong_requests(script: str, words: list[str], changed: dict[str, str], says: str, tmp_path: Path) -> None:
    done = launch(script, *words, env={**os.environ, "XDG_STATE_HOME": str(tmp_path), **changed})
    assert done.returncode == 2
    assert re.fullmatch(rf"{re.escape(script)}: [^\n]*{re.escape(says)}[^\n]*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["up.sh", "submit.sh", "down.sh"])
def test_help_is_the_comment_at_the_top(script: str) -> None:
    done = launch(script, "--help", env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"    cluster/{script}" in done.stdout
    assert "#" not in done.stdout


def test_a_cluster_that_was_started_from_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """From another machine, or with another port: this one has no state of it."""
    reach = tmp_path / "reach"
    reach.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    reach.chmod(0o755)
    folder = tmp_path / "remote" / "b"
    folder.mkdir(parents=True)
    for name in ("process", "token", "temporary"):
        (folder / name).write_text("somebody's")
    env = os.environ | {
        "FFPIPE_SSH": str(reach),
        "FFPIPE_FOLDER": str(tmp_path / "remote"),
        "FFPIPE_BIN": str(Path(sys.executable).parent),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    up = launch("up.sh", "a", "b", env=env)
    assert up.returncode == 2
    assert re.fullmatch(r"up\.sh: Ray runs on b from \S+ already[^\n]*\n", up.stderr)
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(
        ("process", "token", "temporary"), "somebody's"
    )
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "remote" / "a").exists()
    # And where it comes up between that look and the start.
    start = [CLUSTER / "host" / "start.sh", folder, "venv", "7000", "-", "-"]
    assert subprocess.run(["sh", *map(str, start)], input=b"token\n", check=False).returncode == 3
    assert (folder / "token").read_text() == "somebody's"


# A Python that makes environments of itself, says what it does, and waits for a file while it installs.
PYTHON = """\
#!/bin/sh
here=$(dirname "$0")
case $1 in
    -c) echo "$0 3 11" ;;
    -m) case $2 in
        venv) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo venv >>"$LOG" ;;
        pip)
            echo begin >>"$LOG"
            until [ -e "$GATE" ]; do sleep 0.1; done
            case "$*" in *--fail*) exit 1 ;; esac
            echo end >>"$LOG"
            ;;
    esac ;;
esac
"""
WHOLE = ["venv", "begin", "end", "begin", "end"]


@pytest.fixture
def installing(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which hosts are folders of this one, and a stub installs ffpipe there once GATE exists."""
    for name, text in (("reach", '#!/bin/sh\nshift\nexec "$@"\n'), ("python", PYTHON), ("other", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "log").touch()
    yield os.environ | {
        "FFPIPE_SSH": str(tmp_path / "reach"),
        "FFPIPE_FOLDER": str(tmp_path / "remote"),
        "FFPIPE_PYTHON": str(tmp_path / "python"),
        "FFPIPE_BIN": "",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "LOG": str(tmp_path / "log"),
        "GATE": str(tmp_path / "gate"),
    }
    (tmp_path / "gate").touch()  # nothing is to wait for it any more


def done_in(folder: Path) -> list[str]:
    return (folder / "log").read_text().split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_that_is_ended_waits_for_what_it_installs(
    number: signal.Signals, installing: dict[str, str], tmp_path: Path
) -> None:
    """Else the next one would install beside it."""
    up = subprocess.Popen([CLUSTER / "up.sh", "a=192.0.2.1"], env=installing, stderr=subprocess.PIPE, text=True)
    wait_for("it installs", lambda: bool(done_in(tmp_path)), 60.0)
    up.send_signal(number)
    assert up.stderr is not None
    assert up.stderr.readline() == "up.sh: waiting for what is being installed\n"
    Path(installing["GATE"]).touch()
    assert up.communicate(timeout=60)[1].splitlines()[-1] == "up.sh: broken off"
    assert done_in(tmp_path) == WHOLE
    assert not any((tmp_path / "state").rglob("cluster-*"))


def test_an_address_that_is_not_found_is_asked_for_before_anything_is_installed(
    installing: dict[str, str], tmp_path: Path
) -> None:
    """As on a host that has its own name for a loopback address."""
    up = launch("up.sh", "localhost", env=installing)
    assert up.returncode == 2
    assert up.stderr.startswith("up.sh: what is the address of localhost?")
    assert "cluster/up.sh localhost=ADDRESS" in up.stderr
    assert done_in(tmp_path) == []
    assert not (tmp_path / "remote").exists()
    assert not (tmp_path / "state").exists()


def test_jobs_are_not_submitted_to_a_cluster_that_could_not_be_stopped_as_a_whole(tmp_path: Path) -> None:
    """Its head may be the part that has been stopped."""
    (tmp_path / "reach").write_text('#!/bin/sh\ncat >/dev/null\n[ "$1" = head ]\n')
    (tmp_path / "reach").chmod(0o755)
    state = tmp_path / "state" / "ffpipe" / f"cluster-{PORT}"
    state.mkdir(parents=True)
    (state / "hosts").write_text("head\nworker\n")
    (state / "token").write_text("token")
    env = os.environ | {
        "FFPIPE_SSH": str(tmp_path / "reach"),
        "FFPIPE_PORT": str(PORT),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    assert launch("submit.sh", "train", env=env).returncode == 0
    down = launch("down.sh", env=env)
    assert down.returncode == 1
    assert "could not stop what runs on worker" in down.stderr
    assert (state / "hosts").read_text() == "worker\n"
    job = launch("submit.sh", "train", env=env)
    assert job.returncode == 2
    assert f"no cluster of port {PORT} is up" in job.stderr


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_a_proxy_is_not_asked_for_this_host(name: str, tmp_path: Path) -> None:
    """It would see the token. Other hosts that are reached without one still are."""
    script = 'folder=. bin=venv; . "$0"; exec "$1" -c "$2"'
    look = "from urllib.request import proxy_bypass as by; print(*(by(each) for each in ('127.0.0.1', 'a.b', 'c')))"
    command = ["sh", "-c", script, str(CLUSTER / "host" / "environment.sh"), sys.executable, look]
    plain = {each: value for each, value in os.environ.items() if each.lower() != "no_proxy"}
    env = plain | {"http_proxy": "http://192.0.2.1:3128", name: "a.b"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


def install(env: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
    """Install from a package of one file."""
    folder = Path(env["FFPIPE_FOLDER"])
    (folder / "package").mkdir(parents=True, exist_ok=True)
    (folder / "package" / "constraints.txt").write_text("torch==2\n")
    return subprocess.Popen(["sh", CLUSTER / "host" / "install.sh", folder, *words], env=env)


def test_what_is_installed_once(installing: dict[str, str], tmp_path: Path) -> None:
    python, other = str(tmp_path / "python"), str(tmp_path / "other")
    Path(installing["GATE"]).touch()
    ready = tmp_path / "remote" / "venv" / ".ready"
    for words, made in (((python,), WHOLE), ((python,), []), ((other,), WHOLE), ((other, "-q"), WHOLE)):
        (tmp_path / "log").write_text("")
        assert install(installing, *words).wait(60) == 0
        assert done_in(tmp_path) == made
        assert (tmp_path / "remote" / "venv" / "bin" / "python").read_bytes() == Path(words[0]).read_bytes()
    assert install(installing, other, "--fail").wait(60) == 1
    assert not ready.exists()


def test_one_installs_at_a_time(installing: dict[str, str], tmp_path: Path) -> None:
    lock = tmp_path / "remote" / "install.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = install(installing, str(tmp_path / "python"))
        waits = re.compile(rf"-> FLOCK .*:{lock.stat().st_ino} ")
        wait_for("it waits", lambda: bool(waits.search(Path("/proc/locks").read_text()) or done_in(tmp_path)), 60.0)
        assert done_in(tmp_path) == []
    Path(installing["GATE"]).touch()
    assert process.wait(60) == 0
    assert done_in(tmp_path) == WHOLE


@contextmanager
def started(place: Path, body: str = "", **env: str) -> Iterator[Path]:
    """Start a stand-in for Ray that first does `body` by start.sh, and stop it by stop.sh; the folder of its files."""
    folder = place / "remote"
    folder.mkdir()
    (place / "ray").write_text(f"#!/bin/bash\n{body}\necho Ray runtime started\nexec sleep 300\n")
    (place / "ray").chmod(0o755)
    start = ["sh", *map(str, (CLUSTER / "host" / "start.sh", folder, place)), "7000", "-", "-"]
    try:
        assert subprocess.run(start, input=b"token\n", env=os.environ | env, check=False).returncode == 0
        temporary = Path((folder / "temporary").read_text().strip())
        yield temporary
    finally:
        subprocess.run(["sh", CLUSTER / "host" / "stop.sh", folder], check=True)
    assert not temporary.exists()


def test_a_long_temporary_folder_of_a_host_is_not_taken(tmp_path: Path) -> None:
    """Its letters would be few enough; its bytes are not."""
    with started(tmp_path, TMPDIR=f"/tmp/{'é' * 12}", LC_ALL="C.UTF-8") as temporary:
        assert temporary.parent == Path("/tmp")


def test_agents_that_write_over_their_environment_are_ended(tmp_path: Path) -> None:
    """Not who looks at Ray's files, nor others' agents."""
    titles = {"agent": "ray::RuntimeEnvAgent", "reader": "less"}
    lines = [
        f"env -i bash -c 'exec -a {title} sleep 300' 3>\"$TMPDIR/{name}.log\" >/dev/null & echo $! >{tmp_path}/{name}"
        for name, title in titles.items()
    ]
    other = subprocess.Popen(["bash", "-c", "exec -a ray::DashboardAgent sleep 300"])
    try:
        with started(tmp_path, "\n".join(lines)):
            ids = {name: int((tmp_path / name).read_text()) for name in titles}
        # One that has ended may be there until its parent looks, without its words.
        words = {name: Path(f"/proc/{each}/cmdline") for name, each in ids.items()}
        left = [name for name, each in words.items() if each.exists() and each.read_text()]
        assert left == ["reader"]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        os.kill(ids["reader"], signal.SIGKILL)
