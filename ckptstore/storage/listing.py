"""The objects below a prefix, page by page. A senseless answer is not an empty bucket."""

from __future__ import annotations

from collections.abc import Iterator

from ckptstore.storage.clients.base import Client, Failure, Kind, Page, Paging
from ckptstore.storage.retry import Requests


def pages(
    requests: Requests, prefix: str, delimiter: str = "/", first: Page | None = None
) -> Iterator[Page]:
    """Yield the pages of a listing until its last one.

    Args:
        requests: the bucket.
        prefix: the beginning of all keys.
        delimiter: the listing shows keys up to its first place after the prefix; "": whole keys.
        first: the first page, if it is known.

    Raises:
        StorageError: also if the pages repeat, or do not end before the deadline.
    """
    paging = Paging(requests.settings.deadline)
    found = first or page(requests, prefix, delimiter)
    while True:
        if failure := _failure(paging, found):
            raise requests.error("list", prefix, failure, 1)
        yield found
        if found.token is None:
            return
        found = page(requests, prefix, delimiter, found.token)


def page(requests: Requests, prefix: str, delimiter: str = "/", token: str | None = None) -> Page:
    """Return one page of a listing.

    Args:
        requests: the bucket.
        prefix: the beginning of all keys.
        delimiter: as for `pages`.
        token: the start of the page; None for the first.

    Raises:
        StorageError: also if the page is of another listing.
    """

    def request(client: Client, tries: int) -> Page:
        found = client.page(prefix, token, delimiter=delimiter)
        for name in (*found.sizes, *found.prefixes):
            if not name.startswith(prefix):
                raise Failure(Kind.AGAIN, f"the listing has {name!r:.200}, which was not asked for")
        if any(size < 0 for size in found.sizes.values()):
            raise Failure(Kind.AGAIN, "the listing has a size below 0")
        return found

    answer: Page = requests.ask("list", prefix, request)
    return answer


def size(requests: Requests, key: str) -> int | None:
    """Return the size of an object by listing it; None if there is none.

    Raises:
        StorageError: as for `pages`.
    """
    for found in pages(requests, key):  # the object stands on the first page, if keys are in order
        if key in found.sizes:
            return found.sizes[key]
    return None


def _failure(paging: Paging, page: Page) -> Failure | None:
    try:
        paging.check([*page.sizes, *page.prefixes], page.token)
    except Failure as failure:
        return failure
    return None
