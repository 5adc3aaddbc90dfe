"""`/docs`: the OpenAPI document as one page to read, made here and complete in itself: no script, no style and no font comes from
elsewhere.

Owns the page. Each operation has its parameters, bodies, answers and a line for curl that works once TOKEN is set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

METHODS = ("get", "post", "patch", "put", "delete")

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.5rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem }
summary { cursor: pointer } summary code { font-weight: 600 }
.verb { display: inline-block; width: 4.2rem; font-weight: 700 }
table { border-collapse: collapse; margin: .5rem 0 } td, th { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: 6px; overflow-x: auto } nav a { margin-right: 1rem }
"""


class Page(OpenAPIRenderPlugin):
    """The page, at the root of the documents' path."""

    def __init__(self) -> None:
        super().__init__(path="/", favicon="", style="")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """HTML, UTF-8."""
        return page_of(openapi_schema, str(request.base_url).rstrip("/")).encode()


def page_of(document: dict[str, Any], base: str) -> str:
    """The page of an OpenAPI document. base: where the API is, for the lines of curl."""
    groups: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                operation = item[method]
                groups.setdefault((operation.get("tags") or ["more"])[0], []).append("".join(_operation(base, path, method, operation)))
    links = "".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in groups)
    parts = "".join(f'<h2 id="{escape(name)}">{escape(name)}</h2>{"".join(found)}' for name, found in groups.items())
    title = escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body><h1>{title} '
        f'{escape(document["info"]["version"])}</h1><p>The document itself: <a href="/docs/openapi.json">openapi.json</a>. Decimals and '
        f"times are text. Errors are problem details with a stable <code>code</code>.</p><nav>{links}</nav>{parts}</body></html>"
    )


def _operation(base: str, path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield (
        f'<details><summary><span class="verb">{method.upper()}</span><code>{escape(path)}</code> '
        f"{escape(operation.get('summary', ''))}</summary>"
    )
    for paragraph in operation.get("description", "").split("\n\n"):
        yield f"<p>{escape(paragraph)}</p>"
    parameters = operation.get("parameters", [])
    if parameters:
        rows = "".join(
            f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}</td>"
            f"<td>{escape(_type_of(one.get('schema', {})))}</td><td>{escape(one.get('description', ''))}</td></tr>"
            for one in parameters
        )
        yield f"<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>{rows}</table>"
    body = _example(operation.get("requestBody", {}))
    yield f"<pre>{escape(curl_of(base, path, method, operation, body))}</pre>"
    for status, response in sorted(operation.get("responses", {}).items()):
        yield f"<p><b>{escape(status)}</b> {escape(response.get('description', ''))}</p>"
        example = _example(response)
        if example is not None:
            yield f"<pre>{escape(json.dumps(example, indent=1))}</pre>"
    yield "</details>"


def curl_of(base: str, path: str, method: str, operation: dict[str, Any], body: Any) -> str:
    """A line for a shell."""
    words = ["curl", "-s"]
    if method != "get":
        words += ["-X", method.upper()]
    if operation.get("security", True):
        words.append('-H "Authorization: Bearer $TOKEN"')
    if body is not None:
        words += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(body)}'"]
    return " ".join([*words, f"'{base}{path}'"])


def _example(holder: dict[str, Any]) -> Any:
    """The first example of a body."""
    for content in holder.get("content", {}).values():
        for one in (content.get("examples") or {}).values():
            return one.get("value")
        if "example" in content:
            return content["example"]
    return None


def _type_of(schema: dict[str, Any]) -> str:
    """A schema in a word or two."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "oneOf" in schema:
        return " or ".join(sorted({_type_of(one) for one in schema["oneOf"]} - {"null"}))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"{_type_of(schema.get('items', {}))}, several"
    return str(schema.get("type", ""))
