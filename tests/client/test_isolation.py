"""After the agent has left the network no address is reachable, and Unix sockets still work."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

CHILD = """
import socket, sys
from synthfed.client.isolation import leave_network

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
