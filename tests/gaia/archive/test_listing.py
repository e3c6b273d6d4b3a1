import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaia.archive.server import Answer, FileServer, Page, Status, checksums
from gaia.archive.toys import SOURCES, XP, ObjectStore, patience, toy_archive
from scattervae.errors import FetchError
from scattervae.gaia.archive.listing import overlapping, parse_listing, read_listing
from scattervae.gaia.archive.transport import new_session

LIST = XP.folder + "_MD5SUM.txt"
MD5 = "0123456789abcdef0123456789abcdef"


def listing(server, product=XP, **options):
    with new_session() as session:
        return read_listing(session, server.url, product, patience(**options))


def test_the_list_gives_names_addresses_checksums_and_pixels():
    files = toy_archive(n_files=3)
    with FileServer(files) as server:
        found = listing(server)
        assert listing(server, SOURCES)[0].name == "GaiaSource_000000-000999.csv.gz"
        assert [file.url for file in found] == [server.url + path for path in list(files)[:3]]
    assert found[1].path == "xp_continuous_mean_spectrum/XpContinuousMeanSpectrum_001000-001999.csv.gz"
    assert found[1].pixels == range(1000, 2000)
    assert f"{found[1].md5}  {found[1].name}" in files[LIST].decode()


def test_names_that_are_none_of_the_product_are_left_out():
    lines = [
        f"{MD5}  XpContinuousMeanSpectrum_003112-005263.csv.gz",
        f"{MD5.upper()} *./XpContinuousMeanSpectrum_000000-003111.csv.gz",  # md5sum's binary mark, and a dot
        f"{MD5}  ../../XpContinuousMeanSpectrum_000000-000001.csv.gz",
        f"{MD5}  _MD5SUM.txt",
        f"{MD5}  GaiaSource_000000-003111.csv.gz",
        "not a checksum  XpContinuousMeanSpectrum_000000-003111.csv.gz",
        "",
    ]
    files = parse_listing("\r\n".join(lines), "http://there/", XP)
    assert [(file.name, file.md5) for file in files] == [
        ("XpContinuousMeanSpectrum_000000-003111.csv.gz", MD5),
        ("XpContinuousMeanSpectrum_003112-005263.csv.gz", MD5),
    ]


@given(st.text(max_size=200))
def test_no_text_leads_out_of_the_folder(text):
    name = f"XpContinuousMeanSpectrum_{text}-000001.csv.gz"
    for file in parse_listing(f"{MD5}  {name}\n{text}", "http://there/", XP):
        assert "/" not in file.name
        assert file.name in name


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 300), st.integers(1, 80))
def test_files_overlap_a_range_where_they_share_a_pixel(lengths, start, length):
    lines, first = [], 0
    for extra in lengths:
        lines.append(f"{MD5}  GaiaSource_{first:06d}-{first + extra:06d}.csv.gz")
        first += extra + 1
    files = parse_listing("\n".join(lines), "http://there/", SOURCES)
    wanted = set(range(start, start + length))
    chosen = overlapping(files, range(start, start + length))
    assert chosen == tuple(file for file in files if wanted & set(file.pixels))


@pytest.mark.parametrize("pixels", [range(-1, 5), range(5, 5), range(7, 3), range(786431, 786433)])
def test_pixels_that_are_none(pixels):
    with pytest.raises(FetchError, match="expected a range of order-8 pixels within 0-786431"):
        overlapping((), pixels)


def test_a_busy_server_is_asked_again():
    with FileServer(toy_archive()) as server:
        server.fail(LIST, [Status(503), Page(), Status(429, {"Retry-After": "0"})])
        assert len(listing(server)) == 3
        assert len(server.gets(LIST)) == 4


@pytest.mark.parametrize(
    ("fault", "message", "asked"),
    [
        (Status(404), r"answers 404 Not Found$", 1),
        (Status(403), r"answers 403 Forbidden$", 1),
        (Status(503), r"answers 503 Service Unavailable; tried 2 times; try again later$", 2),
        (Page(), r"the server sent a web page instead; tried 2 times", 2),
        (Page("text/plain"), r"the server sent a web page instead; tried 2 times", 2),
    ],
)
def test_a_list_that_cannot_be_had(fault, message, asked):
    with FileServer(toy_archive()) as server:
        server.fail(LIST, [fault] * 2)
        with pytest.raises(FetchError, match=message):
            listing(server, tries=2)
        assert len(server.gets(LIST)) == asked


def test_a_list_of_other_files():
    with (
        FileServer({LIST: checksums({"other.csv.gz": b"x"})}) as server,
        pytest.raises(FetchError, match=r"lists no XpContinuousMeanSpectrum_\*\.csv\.gz with a checksum"),
    ):
        listing(server)


def test_nobody_answers():
    with FileServer({}) as server:
        url = server.url
    with (
        new_session() as session,
        pytest.raises(FetchError, match=r"Connection refused; tried 2 times"),
    ):
        read_listing(session, url, XP, patience(tries=2))


@pytest.mark.parametrize("url", ["ftp://there", "there", "http://"])
def test_what_is_no_address(url):
    with new_session() as session, pytest.raises(FetchError, match="give --base-url as https://"):
        read_listing(session, url, XP, patience())


@pytest.mark.parametrize("bucket", ["", "gaia-bucket/"])
@pytest.mark.parametrize("with_list", [True, False])
def test_an_object_store_lists_its_files(bucket, with_list):
    files = {path: content for path, content in toy_archive().items() if with_list or "_MD5SUM" not in path}
    expected = {Path(path).name: hashlib.md5(content).hexdigest() for path, content in files.items()}
    with ObjectStore(files, bucket, tags=not with_list) as server:
        server.files = {path: c for path, c in server.files.items() if not path.endswith(LIST) or with_list}
        server.fail(bucket + LIST, [Page()])
        with new_session() as session:
            found = read_listing(session, server.url + bucket, XP, patience(tries=2))
        assert len(found) == 3
        for file in found:
            assert file.md5 == expected[file.name]
            assert file.url == f"{server.url}{bucket}{XP.folder}{file.name}"


def test_a_store_that_knows_no_tokens_is_read_to_its_end():
    files = {path: content for path, content in toy_archive(n_files=9).items() if "_MD5SUM" not in path}
    with ObjectStore(files, tokens=False) as server, new_session() as session:
        assert len(read_listing(session, server.url, XP, patience(tries=2))) == 9


@pytest.mark.parametrize("with_list", [True, False])
def test_files_that_another_server_lists_come_from_the_one_that_has_them(with_list):
    """As the archive does: a page for browsers where the files are, and their names at its storage."""
    files = {f"Gaia/{path}": c for path, c in toy_archive().items() if with_list or "_MD5SUM" not in path}
    pages = {f"Gaia/{LIST}": b"<!DOCTYPE html><html><script src='browser.js'></script></html>"}
    with ObjectStore(files, tokens=False) as storage, FileServer(files | pages) as cdn:
        with new_session() as session:
            url = cdn.url + "Gaia/"
            found = read_listing(session, url, XP, patience(tries=2), listing_url=storage.url)
        assert [file.url for file in found] == [f"{url}{XP.folder}{file.name}" for file in found]
        assert [hashlib.md5(files[f"Gaia/{XP.folder}{file.name}"]).hexdigest() for file in found] == [
            file.md5 for file in found
        ]
        assert len(found) == 3


def test_a_page_for_browsers_that_links_to_the_list_is_followed():
    with FileServer(toy_archive()) as storage, FileServer({}) as old:
        page = f'<html><a href="{storage.url}{LIST}">checksums</a> <a href="javascript:x">y</a></html>'
        old.files[LIST] = page.encode()
        with new_session() as session:
            found = read_listing(session, old.url, XP, patience(tries=2))
        assert [file.url.startswith(storage.url) for file in found] == [True] * 3


def test_a_listing_with_entities_is_not_read():
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult><Contents><Key>&a;</Key></Contents></ListBucketResult>'
    with FileServer({}) as server:
        server.answer = lambda request, _body: (
            Answer(bomb.encode(), headers={"Content-Type": "text/xml"})
            if "list-type" in request.path
            else None
        )
        with new_session() as session, pytest.raises(FetchError, match="404"):
            read_listing(session, server.url, XP, patience(tries=2))
