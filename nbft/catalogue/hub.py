"""Searches the hub for models and datasets, at a person's request only."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Literal

from nbft.errors import NbftError
from nbft.redaction import redact_text

HUB_SECONDS = 5.0
"""How long the hub may take to answer."""

_RESULTS = 30
_QUERIES: dict[str, dict[str, Any]] = {
    "models": {
        "pipeline_tag": "text-generation",
        "expand": ["downloads", "gated", "safetensors", "tags"],
    },
    "datasets": {"expand": ["downloads", "gated", "tags"]},
}


@dataclass(frozen=True)
class Repository:
    """A model or a dataset on the hub.

    Attributes:
        name: Its name, owner/name.
        license: Its licence, from its tags; None if it has none.
        is_gated: Whether its terms have to be accepted first; None if the hub does not say.
        downloads: Downloads in the last 30 days; None if the hub does not say.
        parameters: Parameters of a model; None if unknown.
    """

    name: str
    license: str | None
    is_gated: bool | None
    downloads: int | None
    parameters: int | None


def search(kind: Literal["models", "datasets"], text: str) -> list[Repository]:
    """Return what is public on the hub, the most downloaded first, at most 30.

    One request, without retries and without the person's token: HfApi.list_models takes no time
    limit, and tries for half a minute.

    Args:
        kind: What to search for.
        text: Words to search for.

    Raises:
        NbftError: The hub does not answer, or cannot be asked.

    Source: huggingface.co/docs/hub/api; models with safetensors weights only, as nbft loads them.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise _failed(kind, "HF_HUB_OFFLINE is set", "Unset it, or choose one listed here.")
    query = {"search": text, "sort": "downloads", "limit": _RESULTS, **_QUERIES[kind]}
    if kind == "models":
        query["filter"] = "safetensors"
    try:
        address = f"{constants.ENDPOINT}/api/{kind}"
        answer = get_session().get(address, params=query, timeout=HUB_SECONDS)
    except Exception as error:  # of the network library, which differs by version
        why = f"no answer within {HUB_SECONDS:g} seconds ({type(error).__name__})"
        fix = "Check the network, or choose one listed here."
        raise _failed(kind, why, fix) from None
    found = None
    with contextlib.suppress(ValueError):
        found = answer.json()
    if not isinstance(found, list):
        why = f"it answered with status {answer.status_code} and without a list"
        raise _failed(kind, why, "Try again later.")
    return [_repository(each) for each in found if isinstance(each, dict) and each.get("id")]


def _failed(kind: str, why: str, fix: str) -> NbftError:
    return NbftError(redact_text(f"Searching the hub for {kind} failed: {why}. {fix}"))


def _repository(about: dict[str, Any]) -> Repository:
    tags = tuple(tag for tag in about.get("tags") or () if isinstance(tag, str))
    total = (about.get("safetensors") or {}).get("total")
    gated = about.get("gated")
    return Repository(
        name=str(about["id"]),
        license=next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None),
        is_gated=None if gated is None else bool(gated),
        downloads=about.get("downloads"),
        parameters=total if isinstance(total, int) else None,
    )
