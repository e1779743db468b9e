"""Bytes from strangers' addresses: only from where they may come, only as many and as long as allowed."""

import asyncio
import datetime
import ipaddress
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipelines.ingress.images.fetch import MAX_REDIRECTS, Fetcher, FetchPolicy
from pipelines.ingress.images.names import NameLookUps
from stages.concurrency.thread_pool import DaemonThreads
from stages.contract.errors import ConfigurationError, InvalidRequest, Overloaded, TooLarge
from tests.pipelines.ingress.image_server import ImageServer, announced, body, endless, in_pieces, redirect, running, stalled

PARAM = "messages[0].content[1].image_url.url"


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with running() as started:
        started.answers["/cat"] = body(b"meow")
        yield started


def fetcher(
    server: ImageServer, max_bytes: int = 1000, timeout_s: float = 30, hosts: Sequence[str] = ("127.0.0.1",)
) -> Fetcher:
    policy = FetchPolicy(enabled=True, timeout_s=timeout_s, allowed_hosts=tuple(f"{host}:{server.port}" for host in hosts))
    return Fetcher(policy, max_bytes, resolver=system())


def system() -> NameLookUps:
    return NameLookUps(DaemonThreads("looking up names", max_threads=8))


class Names:
    """A resolver with answers of its own, and a count of questions."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = {name.replace("_", "."): iter(replies) for name, replies in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        try:
            return next(self._answers[host])
        except KeyError:
            raise OSError("unknown host") from None


async def refusal(fetcher: Fetcher, url: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await fetcher.fetch(url, param=PARAM)
    assert caught.value.param == PARAM
    assert PARAM in caught.value.message
    return caught.value


async def test_the_body_of_an_allowed_address_arrives(server: ImageServer) -> None:
    assert await fetcher(server).fetch(server.url("/cat"), param=PARAM) == b"meow"


async def test_a_body_in_millions_of_pieces_is_given_up_soon(server: ImageServer) -> None:
    server.answers["/crumbs"], server.answers["/pieces"] = in_pieces(b"x", 2_000_000), in_pieces(bytes(2048), 2000)
    large = fetcher(server, max_bytes=5_000_000)
    assert len(await large.fetch(server.url("/pieces"), param=PARAM)) == 2000 * 2048
    begin = time.process_time()
    assert "pieces" in (await refusal(large, server.url("/crumbs"))).message
    assert time.process_time() - begin < 5  # all of them take a minute


async def test_a_server_that_only_says_that_it_will_answer_is_given_up_soon(server: ImageServer) -> None:
    server.answers["/soon"], server.answers["/never"] = announced(10, b"meow"), announced(1_000_000, b"meow")
    assert await fetcher(server).fetch(server.url("/soon"), param=PARAM) == b"meow"
    begin = time.process_time()
    error = await refusal(fetcher(server), server.url("/never"))
    assert "did not answer as it should" in error.message
    assert "no answer within" in (error.detail or "")
    assert time.process_time() - begin < 5  # all of them take minutes


async def test_what_arrives_is_counted_as_it_comes(server: ImageServer) -> None:
    counted: list[int] = []

    async def held(size: int) -> None:
        counted.append(size)
        if sum(counted) > 3_000:
            raise Overloaded("there is no room", retry_after_s=1)

    policy = FetchPolicy(enabled=True, allowed_hosts=(f"127.0.0.1:{server.port}",))
    counting = Fetcher(policy, 10_000_000, resolver=system(), held=held)
    server.answers["/small"], server.answers["/large"] = body(bytes(2_000)), body(bytes(1_000_000))
    await counting.fetch(server.url("/small"), param=PARAM)
    assert sum(counted) == 2_000
    with pytest.raises(Overloaded):
        await counting.fetch(server.url("/large"), param=PARAM)


async def test_fetching_is_off_unless_enabled(server: ImageServer) -> None:
    off = Fetcher(FetchPolicy(allowed_hosts=(f"127.0.0.1:{server.port}",)), 1000, resolver=system())
    assert "fetch.enabled" in (await refusal(off, server.url("/cat"))).message
    assert server.asked == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_loopback_is_refused_however_it_is_written(server: ImageServer, host: str) -> None:
    error = await refusal(Fetcher(FetchPolicy(enabled=True), 1000, resolver=system()), server.url("/cat", host))
    assert "fetch.allowed_hosts" in error.message or "not known" in error.message or "not a valid" in error.message
    assert server.asked == []


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "192.168.0.1", "::1", "fe80::1%lo", "64:ff9b::a00:1"])
async def test_a_name_that_resolves_to_a_private_address_is_refused(address: str) -> None:
    names = Names(cat_example=[[address]])
    error = await refusal(Fetcher(FetchPolicy(enabled=True), 1000, resolver=names), "http://cat.example/")
    assert "no public address" in error.message
    assert address not in error.message  # nobody learns our network from it


async def test_a_name_that_mixes_public_and_private_addresses_is_refused() -> None:
    names = Names(cat_example=[["8.8.8.8", "10.0.0.1"]])
    assert (
        "no public address"
        in (await refusal(Fetcher(FetchPolicy(enabled=True), 9, resolver=names), "http://cat.example/")).message
    )


async def test_an_allowed_host_is_allowed_on_its_port_only(server: ImageServer) -> None:
    elsewhere = Fetcher(FetchPolicy(enabled=True, allowed_hosts=(f"127.0.0.1:{server.port + 1}",)), 1000, resolver=system())
    assert "no public address" in (await refusal(elsewhere, server.url("/cat"))).message


async def test_a_host_is_resolved_once_and_the_connection_goes_to_that_address(server: ImageServer) -> None:
    names = Names(cat_example=[["127.0.0.1"], ["10.0.0.1"]])
    policy = FetchPolicy(enabled=True, allowed_hosts=(f"cat.example:{server.port}",))
    assert await Fetcher(policy, 1000, resolver=names).fetch(server.url("/cat", "cat.example"), param=PARAM) == b"meow"
    assert names.asked == ["cat.example"]
    assert server.asked == [("/cat", f"cat.example:{server.port}")]


async def test_the_next_address_is_tried_where_the_first_takes_no_connection(server: ImageServer) -> None:
    names = Names(cat_example=[["127.0.0.2", "127.0.0.1"], ["127.0.0.2"]])
    policy = FetchPolicy(enabled=True, allowed_hosts=(f"cat.example:{server.port}",))
    both = Fetcher(policy, 1000, resolver=names)
    assert await both.fetch(server.url("/cat", "cat.example"), param=PARAM) == b"meow"
    assert "takes no connection" in (await refusal(both, server.url("/cat", "cat.example"))).message


# ---- redirects ----


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(server: ImageServer, status: int) -> None:
    server.answers["/here"] = redirect("/cat", status)
    assert await fetcher(server).fetch(server.url("/here"), param=PARAM) == b"meow"


async def test_redirects_are_followed_only_so_far(server: ImageServer) -> None:
    for step in range(MAX_REDIRECTS + 1):
        server.answers[f"/{step}"] = redirect(f"/{step + 1}" if step < MAX_REDIRECTS else "/cat")
    assert await fetcher(server).fetch(server.url("/1"), param=PARAM) == b"meow"
    assert "more than 3 times" in (await refusal(fetcher(server), server.url("/0"))).message


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:{port}/cat",
        "//localhost:{port}/cat",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]:{port}/cat",
    ],
)
async def test_a_redirect_to_a_private_address_is_refused(server: ImageServer, location: str) -> None:
    server.answers["/here"] = redirect(location.format(port=server.port))
    assert "fetch.allowed_hosts" in (await refusal(fetcher(server), server.url("/here"))).message
    assert [path for path, _ in server.asked] == ["/here"]


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "data:image/png;base64,AAAA",
        "gopher://x/",
        "http://[",
        "http://u:p@x/",
    ],
)
async def test_a_redirect_to_anything_but_http_is_refused(server: ImageServer, location: str) -> None:
    server.answers["/here"] = redirect(location)
    await refusal(fetcher(server), server.url("/here"))
    assert [path for path, _ in server.asked] == ["/here"]


@pytest.mark.parametrize("location", ["", "http://", "/here", "?"])
async def test_a_redirect_to_itself_goes_in_circles_and_ends(server: ImageServer, location: str) -> None:
    server.answers["/here"] = server.answers["/here?"] = redirect(location)
    await refusal(fetcher(server), server.url("/here"))


# ---- bounds ----


async def test_a_body_at_the_limit_arrives_and_one_byte_more_is_refused(server: ImageServer) -> None:
    server.answers["/1000"], server.answers["/1001"] = body(b"x" * 1000), body(b"x" * 1001)
    assert len(await fetcher(server).fetch(server.url("/1000"), param=PARAM)) == 1000
    error = await refusal(fetcher(server), server.url("/1001"))
    assert isinstance(error, TooLarge)
    assert all(word in error.message for word in ("1001", "1000", "limits.image_bytes"))


async def test_a_body_without_end_is_cut_off_at_the_limit(server: ImageServer) -> None:
    server.answers["/endless"] = endless(b"x" * 4096)
    assert isinstance(await refusal(fetcher(server, max_bytes=100_000), server.url("/endless")), TooLarge)


@pytest.mark.parametrize("begin", [b"", b"x" * 10])
async def test_a_server_that_stalls_is_left_in_time(server: ImageServer, begin: bytes) -> None:
    server.answers["/stalled"] = stalled(server, begin)
    error = await refusal(fetcher(server, timeout_s=0.3), server.url("/stalled"))
    assert "fetch.timeout_s" in error.message or "ReadTimeout" in error.message


async def test_a_resolver_that_stalls_is_left_in_time() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    slow = Fetcher(FetchPolicy(enabled=True, timeout_s=0.05), 1000, resolver=never)
    assert "0.05 s (fetch.timeout_s)" in (await refusal(slow, "http://cat.example/")).message


async def test_a_server_that_hangs_up_early_is_a_refusal(server: ImageServer) -> None:
    server.answers["/short"] = body(b"x", Content_Length="10")
    assert "did not answer as it should" in (await refusal(fetcher(server), server.url("/short"))).message


async def test_compressed_bytes_are_not_expanded(server: ImageServer) -> None:
    server.answers["/gzip"] = body(b"x", Content_Encoding="gzip")
    assert "compressed" in (await refusal(fetcher(server), server.url("/gzip"))).message
    assert server.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 404, 500, 503])
async def test_any_answer_but_200_is_told(server: ImageServer, status: int) -> None:
    server.answers["/status"] = body(b"", status=status)
    assert f"answered {status}" in (await refusal(fetcher(server), server.url("/status"))).message


# ---- addresses ----


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///cat",
        "http://[::1",
        "http://a:99999/",
        "http://a:80808080808080808080/",
        "http://a:0/",
        "http://\x00/",
        "http://ex ample/",
        "https:cat",
        "http://xn--a/",
        "http://xn--/",
    ],
)
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    await refusal(Fetcher(FetchPolicy(enabled=True), 1000, resolver=system()), url)


async def test_an_address_with_a_password_is_refused(server: ImageServer) -> None:
    assert "password" in (await refusal(fetcher(server), f"http://user:secret@127.0.0.1:{server.port}/cat")).message
    assert server.asked == []


async def test_messages_keep_the_query_secret(server: ImageServer) -> None:
    server.answers["/cat?token=secret"] = body(b"", status=404)
    assert "secret" not in (await refusal(fetcher(server), server.url("/cat?token=secret"))).message


async def test_an_unknown_host_is_told() -> None:
    error = await refusal(Fetcher(FetchPolicy(enabled=True), 1000, resolver=Names()), "http://nowhere.invalid/")
    assert "'nowhere.invalid' is not known" in error.message


async def test_proxies_in_the_environment_are_ignored(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await fetcher(server).fetch(server.url("/cat"), param=PARAM) == b"meow"


async def test_nothing_of_ours_goes_to_the_stranger(server: ImageServer) -> None:
    await fetcher(server).fetch(server.url("/cat"), param=PARAM)
    assert set(server.headers[0]) <= {"host", "accept", "accept-encoding", "user-agent", "connection"}


async def test_cookies_are_not_carried_along_a_redirect(server: ImageServer) -> None:
    server.answers["/here"] = body(b"", status=302, Location="/cat", Set_Cookie="a=b; Path=/")
    await fetcher(server).fetch(server.url("/here"), param=PARAM)
    assert "cookie" not in server.headers[1]


@pytest.mark.parametrize("entry", ["localhost", "localhost:", ":80", "localhost:http", ""])
def test_an_allowed_host_without_a_port_is_a_configuration_error(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"fetch\.allowed_hosts"):
        FetchPolicy(allowed_hosts=(entry,))


def test_allowed_hosts_are_told_apart_from_what_merely_contains_them() -> None:
    policy = FetchPolicy(allowed_hosts=("Cats.example:8080", "[::1]:80"))
    assert policy.allows("cats.EXAMPLE", 8080)
    assert policy.allows("[::1]", 80)
    assert not any(policy.allows(host, 8080) for host in ("example", "ats.example", "cats.example.org", "x.cats.example"))


# ---- TLS ----


async def test_the_certificate_must_be_the_hosts_though_the_connection_goes_to_an_address(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path, "cat.example")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate)
    asked_names: list[str | None] = []
    theirs.sni_callback = lambda connection, name, context: asked_names.append(name)
    ours = ssl.create_default_context(cafile=str(certificate))
    with running(theirs) as server:
        server.answers["/cat"] = body(b"meow")
        hosts = tuple(f"{host}:{server.port}" for host in ("cat.example", "dog.example"))
        names = Names(cat_example=[["127.0.0.1"]], dog_example=[["127.0.0.1"]])
        secure = Fetcher(FetchPolicy(enabled=True, timeout_s=30, allowed_hosts=hosts), 1000, resolver=names, tls=ours)
        assert await secure.fetch(f"https://cat.example:{server.port}/cat", param=PARAM) == b"meow"
        await refusal(secure, f"https://dog.example:{server.port}/cat")
    assert asked_names[0] == "cat.example"
    assert len(server.asked) == 1


def _certificate(folder: Path, host: str) -> Path:
    """A self-signed certificate and its key in one file."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path
