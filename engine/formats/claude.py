"""Claude's data export: a zip or folder with `conversations.json`, `projects.json`, `memories.json`, `users.json`.

What people and the assistant said is taken over turn by turn, of all branches, with times and titles; the text of
attachments, the documents and instructions of projects, and what Claude remembered become memories of their own.
The assistant's thinking, its use of tools, and files of which the export holds only names are counted and reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cubes import digest
from engine.errors import Invalid
from engine.formats.conversations import Branch, branches
from engine.formats.json_text import Shape, items, shape
from engine.formats.records import Found, Record, Report, instant, objects, origin, record, said
from engine.formats.source import Source

NAME = "claude"
ROLES = {"human": "user", "user": "user", "assistant": "assistant"}
CONVERSATIONS, PROJECTS, MEMORIES, USERS = "conversations", "projects", "memories", "users"
_BLOCKS = {
    "thinking": "thinking",
    "redacted_thinking": "thinking",
    "tool_use": "use of a tool",
    "tool_result": "use of a tool",
}
_MEMBER = re.compile(r"(?:^|/)(conversations|projects|memories|users)(?:[-_]\d+)?\.json$")
_ONE_OF = re.compile(r"(?:^|/)(projects|memories)/[^/]+\.json$")
SHOWN = "it is not part of what was said"


def fits(source: Source) -> bool:
    alone = len(source.members) == 1
    named = [member for member in source.members if alone or _MEMBER.search(member) or _ONE_OF.search(member)]
    return any(_sort(member, shape(source.head(member))) in (CONVERSATIONS, PROJECTS, MEMORIES) for member in named)


def _sort(member: str, found: Shape) -> str | None:
    """Which of the files of an export this is, by what is in it; by its name where nothing is."""
    for place in ("item", ""):
        if found.has(place, "chat_messages"):
            return CONVERSATIONS
        if found.has(place, "docs", "uuid") or found.has(place, "prompt_template"):
            return PROJECTS
        if found.has(place, "conversations_memory") or found.has(place, "project_memories"):
            return MEMORIES
    named = _MEMBER.search(member)
    if named is not None and (named[1] == USERS or not found.keys):
        return named[1]
    return None


def read(source: Source, report: Report) -> Iterator[Found]:
    readers = {CONVERSATIONS: _conversation, PROJECTS: _project, MEMORIES: _remembered}
    known = False
    for member in source.members:
        looks = shape(source.head(member))
        sort = _sort(member, looks)
        if sort in readers:
            known = True
            place = "item" if looks.begins == "[" or (len(source.members) == 1 and looks.begins != "{") else ""
            for number, item in enumerate(items(source, member, place), 1):
                if not isinstance(item, dict):
                    raise Invalid(f"item {number} of {source.called(member)} is not a JSON object")
                yield from readers[sort](item, report)
        elif sort == USERS:
            known = True
            report.leave("account data", "it says nothing that was remembered", member)
        else:
            report.leave("file", "it is no part of such an export that holds memories", member)
    if not known:
        raise Invalid(f"{source.name} is no export of Claude: it has no conversations with chat_messages")


# --- conversations --------------------------------------------------------------------------------------------------


def _conversation(item: Record, report: Report) -> Iterator[Found]:
    messages = {
        str(message.get("uuid") or f"#{place}"): message
        for place, message in enumerate(objects(item.get("chat_messages")))
    }
    id = str(item.get("uuid") or digest(sorted(messages))[7:23])
    if not messages:
        report.leave("conversation", "it has no messages", f"conversation {id}")
        return
    told = False
    for branch in branches(_parents(messages), item.get("current_leaf_message_uuid")):
        for found in _branch(branch, messages, item, id, report):
            if not told and said(item.get("summary")):
                found.record["metadata"]["fields"]["summary"] = item["summary"]
            told = True
            yield found


def _parents(messages: dict[str, Record]) -> dict[str, str | None]:
    """The message before each: as the export says, or as the list stands where it says nothing."""
    if any(message.get("parent_message_uuid") in messages for message in messages.values()):
        return {id: message.get("parent_message_uuid") for id, message in messages.items()}
    ids = list(messages)
    return dict(zip(ids, [None, *ids], strict=False))


def _branch(branch: Branch, messages: dict[str, Record], item: Record, id: str, report: Report) -> Iterator[Found]:
    session = f"{NAME}:{id}" + (f"/{branch.ids[0]}" if branch.parted is not None else "")
    for place, name in enumerate(branch.ids):
        message, where = messages[name], f"conversation {id}, message {name}"
        at, sender = instant(message.get("created_at")), str(message.get("sender", ""))
        about = {"title": item.get("name"), "conversation": id, "branch_of": branch.parted, "model": item.get("model")}
        about["created_at"] = instant(item.get("created_at"))
        yield from _attachments(message, where, session, at, about, report)
        if sender not in ROLES:
            report.leave(f"message of {sender or 'nobody'}", "only people and the assistant speak", where)
            continue
        text = _text(message, where, report)
        if not text.strip():
            report.leave("message", "it has no words", where)
            continue
        told = {"role": ROLES[sender], "session": session, "position": branch.start + place, "occurred_at": at}
        yield Found(where, record(text, origin(NAME, name, **about), kind="message", source=session, **told))


def _text(message: Record, where: str, report: Report) -> str:
    """The words of a turn: of its blocks where there are any, else its text."""
    blocks = list(objects(message.get("content")))
    words: list[str] = []
    for block in blocks:
        sort = str(block.get("type", "text"))
        if sort == "text":
            words += [text for text in [said(block.get("text"))] if text is not None]
        else:
            report.leave(_BLOCKS.get(sort, sort.replace("_", " ")), SHOWN, where)
    return "\n\n".join(words) if blocks else str(message.get("text") or "")


def _attachments(
    message: Record, where: str, session: str, at: str | None, about: Record, report: Report
) -> Iterator[Found]:
    for number, item in enumerate(objects(message.get("attachments")), 1):
        place, name = f"{where}, attachment {number}", said(item.get("file_name"))
        text = said(item.get("extracted_content"))
        if text is None:
            report.leave("attachment", "the export holds no text of it", place)
            continue
        identity = f"{message.get('uuid')}#{item.get('id') or number}"
        metadata = origin(
            NAME, identity, name, **about, file=name, message=message.get("uuid"), type=item.get("file_type")
        )
        told = {"kind": "document", "source": session, "occurred_at": at}
        yield Found(place, record(text, metadata, entities=[name] if name else [], **told))
    for item in objects(message.get("files")):
        report.leave("uploaded file", "the export holds only its name", f"{where}, {item.get('file_name', 'file')}")


# --- projects and memories ------------------------------------------------------------------------------------------


def _project(item: Record, report: Report) -> Iterator[Found]:
    id, name = str(item.get("uuid", "")), said(item.get("name")) or "project"
    where, source = f"project {id}", f"{NAME}:project/{id}"
    about: dict[str, Any] = {"project": name, "starter": item.get("is_starter_project")}
    for part, kind in (("description", None), ("prompt_template", "procedure")):
        text = said(item.get(part))
        if text is not None:
            metadata = origin(NAME, f"{id}#{part}", name, **about, part=part)
            told = {"kind": kind, "source": source, "occurred_at": instant(item.get("created_at"))}
            yield Found(f"{where}, {part}", record(text, metadata, entities=[name], **told))
    for number, doc in enumerate(objects(item.get("docs")), 1):
        text, file = said(doc.get("content")), said(doc.get("filename"))
        place = f"{where}, document {number}"
        if text is None:
            report.leave("document", "it has no text", place)
            continue
        metadata = origin(NAME, doc.get("uuid") or f"{id}#{number}", name, **about, title=file)
        told = {"kind": "document", "source": source, "occurred_at": instant(doc.get("created_at"))}
        yield Found(place, record(text, metadata, entities=[name], **told))


def _remembered(item: Record, report: Report) -> Iterator[Found]:
    """What Claude noted of its user: one text over all conversations, and one for each project."""
    account = item.get("account_uuid")
    text = said(item.get("conversations_memory"))
    if text is not None:
        metadata = origin(NAME, f"{account}#conversations_memory")
        yield Found("memory of conversations", record(text, metadata, kind="document", tags=["saved memory"]))
    projects = item.get("project_memories")
    for id, words in projects.items() if isinstance(projects, dict) else ():
        where = f"memory of project {id}"
        if said(words) is None:
            report.leave("memory of a project", "it has no text", where)
            continue
        metadata = origin(NAME, f"{account}#project/{id}")
        told = {"kind": "document", "source": f"{NAME}:project/{id}"}
        yield Found(where, record(words, metadata, tags=["saved memory"], **told))
    for name in sorted(set(item) - {"account_uuid", "conversations_memory", "project_memories"}):
        if item[name]:
            report.leave(f"'{name}' of the memories", "its form is not known", "memories")
