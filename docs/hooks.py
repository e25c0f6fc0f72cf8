"""The reference of the HTTP calls, written from the application's own OpenAPI document whenever the site is built."""

import json
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from app.main import create_app
from app.settings import Settings

METHODS = ("get", "put", "post", "delete")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    document = create_app(Settings(database_url="postgresql://nowhere/nothing")).openapi()
    files.append(File.generated(config, "http.md", content=page(document)))
    return files


def page(document: dict[str, Any]) -> str:
    parts = ["# HTTP calls", document["info"]["description"], "The same as a document for programs: `/openapi.json`."]
    for tag in document["tags"]:
        parts += [f"## {tag['name'].capitalize()}", tag["description"]]
        for path, item in document["paths"].items():
            parts += [call(path, method, item[method]) for method in METHODS if tag["name"] in tags(item, method)]
    return "\n\n".join(parts) + "\n"


def tags(item: dict[str, Any], method: str) -> list[str]:
    found: list[str] = item.get(method, {}).get("tags", [])
    return found


def call(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"### {operation['summary']}", f"`{method.upper()} {path}`", operation["description"]]
    if parameters := operation.get("parameters"):
        rows = [f"| `{one['name']}` | {one['in']} | {one.get('description', '')} |" for one in parameters]
        parts.append("\n".join(["| name | in | meaning |", "| --- | --- | --- |", *rows]))
    for title, content in (("Request", operation.get("requestBody", {}).get("content", {})), *answers(operation)):
        for kind, media in content.items():
            for value in examples(media):
                text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
                parts.append(f"{title}, `{kind}`:\n\n``` {'json' if 'json' in kind else 'text'}\n{text.rstrip()}\n```")
    refused = [
        f"{status} ({response['description']})"
        for status, response in operation["responses"].items()
        if status >= "400"
    ]
    if refused:
        parts.append("Problems: " + ", ".join(refused) + ".")
    return "\n\n".join(parts)


def answers(operation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"Answer {status}", response.get("content", {}))
        for status, response in operation["responses"].items()
        if status < "400"
    ]


def examples(media: dict[str, Any]) -> list[Any]:
    return [one["value"] for one in media.get("examples", {}).values()] + (
        [media["example"]] if "example" in media else []
    )
