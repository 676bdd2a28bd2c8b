"""The coordinator's certificates: a real TLS client accepts them, and nothing else under their names."""

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from synthfed.server.certificates import write_certificates


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_certificates(tmp_path, ["coordinator.example", "localhost", "127.0.0.1", "::1"])
    return tmp_path


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def handshake(server: Path, ca: Path, name: str) -> str:
    """Return how a TLS handshake over a socket pair ends at the client: empty, or what it objects to."""
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(server / "server.crt", server / "server.key")
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            theirs.settimeout(10)
            try:
                listening.wrap_socket(theirs, server_side=True).close()
            except OSError:
                return  # the client did not like it

    thread = threading.Thread(target=serve)
    thread.start()
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    ours.settimeout(10)
    try:
        context.wrap_socket(ours, server_hostname=name).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        ours.close()
        thread.join()
    return ""


@pytest.mark.parametrize("name", ["coordinator.example", "localhost", "127.0.0.1", "::1"])
def test_a_strict_client_that_trusts_the_authority_accepts_every_name(folder: Path, name: str) -> None:
    assert handshake(folder, folder / "ca.crt", name) == ""


@pytest.mark.parametrize("name", ["evil.example", "sub.coordinator.example", "127.0.0.2"])
def test_a_client_refuses_the_certificate_under_another_name(folder: Path, name: str) -> None:
    assert "mismatch" in handshake(folder, folder / "ca.crt", name)


def test_a_client_that_trusts_another_authority_refuses_the_server(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_certificates(tmp_path / "other", ["localhost"])
    assert handshake(folder, tmp_path / "other" / "ca.crt", "localhost") != ""


def test_the_authority_signs_certificates_and_the_server_cannot(folder: Path) -> None:
    authority, server = certificate(folder / "ca.crt"), certificate(folder / "server.crt")
    server.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(authority)
    constraints = [each.extensions.get_extension_for_class(x509.BasicConstraints) for each in (authority, server)]
    assert [each.value.ca for each in constraints] == [True, False]
    assert constraints[0].value.path_length == 0
    assert all(each.critical for each in constraints)
    usages = [each.extensions.get_extension_for_class(x509.KeyUsage).value for each in (authority, server)]
    assert [(each.key_cert_sign, each.digital_signature) for each in usages] == [(True, False), (False, True)]
    purposes = server.extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]  # type: ignore[call-overload]


def test_the_certificates_are_valid_now_and_for_a_site_whose_clock_is_a_little_behind(folder: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for name in ("ca.crt", "server.crt"):
        made = certificate(folder / name)
        assert made.not_valid_before_utc < now - datetime.timedelta(minutes=4)
        assert now + datetime.timedelta(days=365) < made.not_valid_after_utc < now + datetime.timedelta(days=826)


def test_private_keys_are_for_their_owner_only_and_apart_from_certificates(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"ca.key", "server.key", "ca.crt", "server.crt"}
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("ca.key", "server.key")} == {0o600}
    assert not any(b"PRIVATE" in (folder / name).read_bytes() for name in ("ca.crt", "server.crt"))


@pytest.mark.parametrize("name", ["ca.key", "server.key", "ca.crt", "server.crt"])
def test_no_file_is_ever_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError):
        write_certificates(tmp_path, ["localhost"])
    assert (tmp_path / name).read_text() == "precious"


def test_a_link_in_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ca.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_certificates(tmp_path, ["localhost"])
    assert not (tmp_path / "elsewhere").exists()


def test_the_returned_authority_is_the_written_one_and_new_every_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    returned = write_certificates(tmp_path / "again", ["localhost"])
    assert returned == (tmp_path / "again" / "ca.crt").read_text()
    assert returned != (folder / "ca.crt").read_text()
    assert certificate(folder / "ca.crt").serial_number != certificate(tmp_path / "again" / "ca.crt").serial_number
