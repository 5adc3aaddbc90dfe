"""The application as it is made: its document is whole, and no library warns of how it is written (warnings are errors in tests)."""

from __future__ import annotations

from types import SimpleNamespace

from pks.base.config import Gateway
from pks.bff.app import API, make_litestar
from pks.bff.pages import page_of


def test_the_document_has_every_call_with_words() -> None:
    gateway = SimpleNamespace(config=Gateway(), access=None, logins=None)
    document = make_litestar(gateway).openapi_schema.to_schema()  # type: ignore[arg-type]
    assert document["openapi"].startswith("3.1")
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"] and operation["description"] and operation["tags"], (method, path)
            assert bool(operation.get("security")) == path.startswith(API), (method, path)
    page = page_of(document, "http://h")
    assert page.count("<details>") == sum(len(item) for item in document["paths"].values())
    assert "<script" not in page
