"""After the agent has left the network no address is reachable, and Unix sockets still work."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

CHILD = """
import socket, sys
from synthfed.client.namespaces import leave_network

def reaches(family, address):
    with socket.socket(family) as connection:
        connection.settimeout(5)
        try:
            connection.connect(address)
        except OSError:
            return False
        return connection.recv(2) == b"hi"

address = ("127.0.0.1", int(sys.argv[1]))
before = reaches(socket.AF_INET, address)
left = leave_network()
print(before, left, reaches(socket.AF_INET, address), reaches(socket.AF_UNIX, sys.argv[2]))
"""


def greet(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"hi")


@pytest.fixture
def answers(tmp_path: Path) -> list[str]:
    """What a child saw before and after it left the network."""
    path = str(tmp_path / "agent.sock")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        threads = [threading.Thread(target=greet, args=(listener,)) for listener in (tcp, unix)]
        for thread in threads:
            thread.start()
        command = [sys.executable, "-c", CHILD, str(tcp.getsockname()[1]), path]
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        for listener in (tcp, unix):
            listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    return output.split()


def test_leaving_the_network_closes_tcp_and_keeps_unix_sockets(answers: list[str]) -> None:
    before, left, tcp, unix = answers
    assert before == "True"
    if left == "False":
        pytest.skip("this kernel permits no network namespace here")
    assert tcp == "False"
    assert unix == "True"


def test_where_the_kernel_refuses_the_answer_is_no_and_nothing_has_changed(answers: list[str]) -> None:
    _, left, tcp, unix = answers
    assert tcp == str(left == "False")
    assert unix == "True"


NODE = """
import ctypes, os, sys
from pathlib import Path
from synthfed.client.namespaces import hide_files

home, table = Path(sys.argv[1]), Path(sys.argv[2])
os.chdir("/")

def reads(path):
    try:
        return Path(path).read_text()
    except OSError:
        return "-"

link = home / "linked.csv"
if table.name == "linked.csv":
    link.symlink_to(table)
    hid = hide_files(home, home / "node", [link])
else:
    hid = hide_files(home, home / "node", [table.parent, table] if table.parent.name == "images" else [table])
print(hid)
# What code that a coordinator ships could try, in a program that the node has become:
attack = '''
import ctypes, os, sys
from pathlib import Path
home, table = Path(sys.argv[1]), Path(sys.argv[2])
libc = ctypes.CDLL(None)
def reads(path):
    try:
        return Path(path).read_text() or "-"
    except OSError:
        return "-"
def look():
    places = [home, Path(f"/proc/{sys.argv[3]}/root{home}"), Path(f"/proc/self/root{home}")]
    return [reads(place / "site.toml") for place in places] + [reads(table)]
print(*look())
for target in (home / "node", home, table, table.parent):
    libc.umount2(os.fsencode(target), 2)
print(*look())
libc.unshare(0x10020000)
for target in (home / "node", home, table, table.parent):
    libc.umount2(os.fsencode(target), 2)
print(*look())
print(reads(home / "node" / "ca.crt"))
'''
sys.stdout.flush()
os.execv(sys.executable, [sys.executable, "-c", attack, str(home), str(table), str(os.getppid())])
"""


@pytest.mark.parametrize("data", ["table.csv", "images/labels.csv", "linked.csv"])
@pytest.mark.parametrize("user", ["root or this user", "nobody"])
def test_a_node_sees_nothing_of_the_home_but_its_own_folder_and_cannot_undo_it(
    tmp_path: Path, user: str, data: str
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="synthfed-view-", dir="/tmp"))
    try:
        home, table = folder / "home", folder / data
        (home / "node").mkdir(parents=True)
        table.parent.mkdir(exist_ok=True)
        for path, text in ((home / "site.toml", "SECRET"), (home / "node" / "ca.crt", "visible"), (table, "SECRET")):
            path.write_text(text)
        command = [sys.executable, "-c", NODE, str(home), str(table)]
        if user == "nobody":
            setpriv = shutil.which("setpriv")
            if os.getuid() != 0 or setpriv is None:
                pytest.skip("needs root and setpriv to become another user")
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 65534, 65534)
            command = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
        if done.returncode or not done.stdout.startswith("True"):
            pytest.skip(f"this kernel does not permit it for {user}: {done.stdout}{done.stderr[-200:]}")
        lines = done.stdout.splitlines()
        assert lines[-1] == "visible"
        for line in lines[1:4]:  # at first, after unmounting, after unmounting in namespaces of its own
            assert line.split() == ["-"] * 4
    finally:
        shutil.rmtree(folder, ignore_errors=True)
