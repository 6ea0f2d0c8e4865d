"""Model references that are no paths: hub ids and URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from netweight.errors import ModelNotFoundError, printable

__all__ = ["HubReference", "UrlReference", "at_commit", "parse_reference"]

_WORD = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_-])?"
_REVISION = r"(?:refs/(?:pr|convert)/)?[^/@\s\\]+"
_SHORT = re.compile(rf"({_WORD}/{_WORD})(?:@([^@\s\\]+))?")
_NAMES = (
    "gpt2 gpt2-medium gpt2-large gpt2-xl distilgpt2 openai-gpt ctrl transfo-xl-wt103 xlnet-base-cased xlnet-large-cased"
    " bert-base-uncased bert-base-cased bert-large-uncased bert-large-cased bert-base-chinese bert-base-german-cased"
    " bert-base-multilingual-cased bert-base-multilingual-uncased bert-large-uncased-whole-word-masking camembert-base"
    " distilbert-base-uncased distilbert-base-cased distilbert-base-multilingual-cased distilbert-base-german-cased"
    " roberta-base roberta-large roberta-large-mnli roberta-base-openai-detector distilroberta-base xlm-roberta-base"
    " xlm-roberta-large xlm-mlm-en-2048 albert-base-v1 albert-base-v2 albert-large-v1 albert-large-v2 albert-xlarge-v2"
    " albert-xxlarge-v2 t5-small t5-base t5-large t5-3b t5-11b"
)
OWNERLESS = frozenset(_NAMES.split())
"""Models of the hub that have no owner in their names: the first ones, which are found under these still."""

_REPO = "|".join([*(f"{re.escape(name)}(?=[@/]|$)" for name in sorted(OWNERLESS)), f"{_WORD}/{_WORD}"])
_LONG = re.compile(rf"hf://({_REPO})(?:@({_REVISION}))?(?:/(.*))?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://.+", re.DOTALL)


@dataclass(frozen=True)
class HubReference:
    """A model on the hub: `repo` is `org/name`; `revision` a branch, tag or commit, None for `main`; `path` a file or
    folder in it, "" for the whole.
    """

    repo: str
    revision: str | None = None
    path: str = ""

    @property
    def label(self) -> str:
        """The URL that leads to the repository."""
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision is not None else "")


@dataclass(frozen=True)
class UrlReference:
    """Any other URL that fsspec can reach."""

    url: str


def parse_reference(name: str) -> HubReference | UrlReference | None:
    """What `name`, which is no existing path, refers to: None where it can only be a path.

    `org/name`, `org/name@revision`, `hf://org/name[@revision][/path]`, a name of OWNERLESS, or a URL. Raises
    ModelNotFoundError for what begins with `hf://` and is not of this form.
    """
    if name.startswith("hf://"):
        match = _LONG.fullmatch(name)
        path = (match[3] or "").strip("/") if match else ""
        if match is None or ".." in path.split("/") or ".." in (match[2] or ""):
            raise ModelNotFoundError(
                f"{printable(name)}: not a reference to a hub; expected hf://org/name or hf://org/name@revision"
            )
        return HubReference(match[1], match[2], path)
    if _URL.fullmatch(name):
        return UrlReference(name)
    if name.partition("@")[0] in OWNERLESS:
        repo, _, revision = name.partition("@")
        return HubReference(repo, revision or None)
    match = _SHORT.fullmatch(name)
    if match is None or ".." in name or name.endswith("/"):
        return None
    return HubReference(match[1], match[2])


def at_commit(name: str, commit: str) -> str | None:
    """The reference to what `name` was when it was read at `commit`; None where `name` is not of a hub."""
    reference = parse_reference(name)
    if not isinstance(reference, HubReference):
        return None
    return HubReference(reference.repo, commit).label + (f"/{reference.path}" if reference.path else "")
