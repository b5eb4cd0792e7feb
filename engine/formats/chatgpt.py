"""ChatGPT's data export: a zip or folder with `conversations.json` (or numbered parts of it), or that file alone.

What people and the assistant said is taken over, turn by turn, of all branches: roles, names, times, the title and the
model. What the assistant saved about its user (`bio`, the memory list that it was shown, `memories.json`) and the
custom instructions become memories of their own, each once. System and tool messages, the assistant's hidden reasoning
and its calls of tools, pictures and sounds are counted and reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cubes import digest
from engine.errors import Invalid
from engine.formats.conversations import Branch, branches
from engine.formats.json_text import items, shape, whole
from engine.formats.records import Found, Record, Report, instant, objects, origin, record, said
from engine.formats.source import Source

NAME = "chatgpt"
_PART = re.compile(r"(?:^|/)conversations(?:[-_]\d+)?\.json$")
_NUMBERED = re.compile(r"^\s*\d+\.\s*(?:\[(\d{4}-\d{2}-\d{2})\]\.?\s*)?(\S.*)$")
_FENCED = re.compile(r"```(?:[a-z]*\n)?(.*?)```", re.DOTALL)
MEMORIES, USER = "memories.json", "user.json"
INSTRUCTIONS = {
    "about_user_message": "about the user",
    "user_profile": "about the user",
    "about_model_message": "how to answer",
    "user_instructions": "how to answer",
}
HIDDEN_TYPES = {"thoughts": "reasoning", "reasoning_recap": "reasoning"}
NOT_SHOWN = "it is not shown in the conversation"
FILES = {
    "chat.html": "it shows the same conversations",
    "message_feedback.json": "it holds ratings of answers",
    "model_comparisons.json": "it holds answers that were compared, without their conversations",
    "shared_conversations.json": "it holds links to conversations that were shared",
}


def fits(source: Source) -> bool:
    parts = _parts(source)
    return bool(parts) and shape(source.head(parts[0])).has("item", "mapping")


def _parts(source: Source) -> list[str]:
    named = [member for member in source.members if _PART.search(member)]
    return named or (list(source.members) if len(source.members) == 1 else [])


def read(source: Source, report: Report) -> Iterator[Found]:
    parts = _parts(source)
    if not parts:
        raise Invalid(f"{source.name} is no export of ChatGPT: it has no conversations.json")
    reader = _Reader(report)
    for member in parts:
        for number, item in enumerate(items(source, member), 1):
            if not isinstance(item, dict) or not isinstance(item.get("mapping"), dict):
                raise Invalid(f"conversation {number} of {source.called(member)} has no mapping of messages")
            yield from reader.conversation(item)
    for member in source.members:
        if member not in parts:
            yield from _beside(source, member, reader)


def _beside(source: Source, member: str, reader: _Reader) -> Iterator[Found]:
    name = member.rpartition("/")[2]
    if name == MEMORIES:
        yield from reader.saved_list(whole(source, member), member)
    elif name == USER:
        held = whole(source, member)
        fields = held if isinstance(held, dict) else {}
        yield from reader.instructions(fields, member)
        yield from reader.saved_list(fields.get("memories"), member)
        reader.report.leave("account data", "it says nothing that was remembered", member)
    else:
        why = FILES.get(name, "it is an attachment or of no known use: the words of conversations are taken over")
        reader.report.leave("file", why, member)


@dataclass(slots=True)
class _Reader:
    report: Report
    known: set[str] = field(default_factory=set)  # digests of what was saved: each conversation repeats it

    # --- conversations -----------------------------------------------------------------------------------------

    def conversation(self, item: Record) -> Iterator[Found]:
        nodes = {str(id): node for id, node in item["mapping"].items() if isinstance(node, dict)}
        id = str(item.get("conversation_id") or item.get("id") or digest(sorted(nodes))[7:23])
        parents = {name: None if node.get("parent") is None else str(node["parent"]) for name, node in nodes.items()}
        turns = 0
        for branch in branches(parents, item.get("current_node")):
            for found in self._branch(branch, nodes, item, id):
                turns += "session" in found.record
                yield found
        if not turns:
            self.report.leave("conversation", "it has no message that was shown", f"conversation {id}")

    def _branch(self, branch: Branch, nodes: dict[str, Record], item: Record, id: str) -> Iterator[Found]:
        session = f"{NAME}:{id}" + (f"/{branch.ids[0]}" if branch.parted is not None else "")
        for place, name in enumerate(branch.ids):
            message = nodes[name].get("message")
            if isinstance(message, dict):
                where = f"conversation {id}, message {name}"
                yield from self._message(message, where, item, session, branch.start + place, branch.parted, name)

    def _message(
        self, message: Record, where: str, item: Record, session: str, position: int, parted: str | None, node: str
    ) -> Iterator[Found]:
        content, about = _object(message, "content"), _object(message, "metadata")
        author, sort = _object(message, "author"), str(content.get("content_type", "text"))
        role, at = str(author.get("role", "")), instant(message.get("create_time"))
        if sort in ("user_editable_context", "model_editable_context"):
            yield from self._context(content, about, where, at)
            return
        if role == "assistant" and message.get("recipient") == "bio":
            for line in _text(content, where, self.report).splitlines():
                yield from self._saved(line, where, at)
            return
        if about.get("user_context_message_data"):
            yield from self.instructions(_object(about, "user_context_message_data"), where)
        why = _unseen(message, role, sort, about)
        if why is not None:
            if role != "system" or _text(content, where, None).strip():
                self.report.leave(why, NOT_SHOWN, where)
            return
        text = _text(content, where, self.report)
        if not text.strip():
            self.report.leave("message", "it has no words", where)
            return
        metadata = origin(
            NAME,
            message.get("id") or node,
            title=item.get("title"),
            conversation=session.partition(":")[2].partition("/")[0],
            model=about.get("model_slug"),
            type=None if sort == "text" else sort,
            branch_of=parted,
            custom_gpt=item.get("gizmo_id"),
            created_at=instant(item.get("create_time")),
        )
        told = {"role": role, "session": session, "position": position, "occurred_at": at}
        name = said(author.get("name"))
        yield Found(where, record(text, metadata, kind="message", actor=name, source=session, **told))

    # --- what was saved ----------------------------------------------------------------------------------------

    def _context(self, content: Record, about: Record, where: str, at: str | None) -> Iterator[Found]:
        """Custom instructions, and the list of memories as the model was shown it."""
        data = _object(about, "user_context_message_data")
        yield from self.instructions(data or content, where)
        for line in str(content.get("model_set_context") or "").splitlines():
            found = _NUMBERED.match(line)
            if found is not None:
                yield from self._saved(found[2], where, instant(found[1]) or at)
        for name in ("repository", "repo_summary", "structured_context"):
            if content.get(name):
                self.report.leave(f"'{name}' of a context", "it describes a repository, not the user", where)

    def instructions(self, fields: Record, where: str) -> Iterator[Found]:
        for name, about in INSTRUCTIONS.items():
            text = said(fields.get(name))
            if text is None:
                continue
            fenced = _FENCED.search(text)
            words = (fenced[1] if fenced else text).strip()
            if words and self._is_new(words):
                kind = "preference" if about == "how to answer" else "fact"
                metadata = origin(NAME, f"instructions:{digest(words)[7:23]}", custom_instructions=about)
                yield Found(where, record(words, metadata, kind=kind, tags=["custom instructions"]))

    def saved_list(self, value: Any, where: str) -> Iterator[Found]:
        """A file of saved memories: texts, or objects that hold one."""
        if isinstance(value, dict):
            value = next((value[name] for name in ("memories", "items", "data") if name in value), [value])
        for number, item in enumerate(value if isinstance(value, list) else [], 1):
            fields = item if isinstance(item, dict) else {"content": item}
            names = ("content", "memory", "text", "value")
            text = next((words for name in names if (words := said(fields.get(name)))), None)
            if text is None:
                self.report.leave("saved memory", "it has no text", f"{where}, memory {number}")
                continue
            times = (instant(fields.get(name)) for name in ("created_at", "create_time", "updated_at"))
            yield from self._saved(text, f"{where}, memory {number}", next((time for time in times if time), None))

    def _saved(self, text: str, where: str, at: str | None) -> Iterator[Found]:
        words = text.strip()
        if words and self._is_new(words):
            metadata = origin(NAME, f"saved:{digest(words)[7:23]}")
            yield Found(where, record(words, metadata, tags=["saved memory"], occurred_at=at))

    def _is_new(self, words: str) -> bool:
        mark = digest(words)
        is_new = mark not in self.known
        self.known.add(mark)
        return is_new


def _unseen(message: Record, role: str, sort: str, about: Record) -> str | None:
    """What a message is that no conversation shows, in words; None: it is shown."""
    if role in ("system", "tool"):
        return f"{role} message"
    if about.get("is_visually_hidden_from_conversation") is True:
        return "hidden message"
    if sort in HIDDEN_TYPES:
        return HIDDEN_TYPES[sort]
    if role not in ("user", "assistant"):
        return f"message of {role or 'nobody'}"
    recipient = message.get("recipient")
    return "call of a tool" if role == "assistant" and recipient not in (None, "", "all") else None


def _text(content: Record, where: str, report: Report | None) -> str:
    """The words of a message; what is no words goes to the report."""
    words: list[str] = []
    for part in content.get("parts") or []:
        if isinstance(part, str):
            words.append(part)
        elif isinstance(part, dict):
            if isinstance(part.get("text"), str):
                words.append(part["text"])
            elif report is not None:
                what = str(part.get("content_type", "object")).removesuffix("_asset_pointer").replace("_", " ")
                report.leave(what, "only words are kept", where)
    if not words:
        texts = (content.get(name) for name in ("text", "result", "content"))
        words = [text for text in texts if isinstance(text, str)][:1]
    return "\n".join(word for word in words if word)


def _object(item: Record, name: str) -> Record:
    return next(objects([item.get(name)]), {})
