"""Chats of other programs: every branch, every turn in its place, what was saved once, and what is hidden reported."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cubes import Kind, Relation
from engine.formats.conversations import branches
from engine.memos import MemOS
from tests.engine.formats.samples_of import SAMPLES, read, records
from tests.engine.stores import ME

TALK = "chatgpt:g1000000-0000-4000-8000-000000000001"


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.sampled_from("abcdefghxyz")), st.text(max_size=1))
def test_every_message_is_in_exactly_one_branch_whatever_the_tree_claims(
    parents: dict[str, str | None], current: str
) -> None:
    found = branches(parents, current)
    told = [id for branch in found for id in branch.ids]
    assert sorted(told) == sorted(parents)
    place = {id: branch.start + number for branch in found for number, id in enumerate(branch.ids)}
    for branch in found:
        assert branch.start == (0 if branch.parted is None else place[branch.parted] + 1)
        assert all(parents[later] == earlier for earlier, later in zip(branch.ids, branch.ids[1:], strict=False))
        assert branch.parted is None or parents[branch.ids[0]] == branch.parted
    if current in parents:
        assert found[0].ids[-1] == current


def turns(sample: str) -> list[tuple[str, int, str, str]]:
    found = records(SAMPLES / sample)
    return [(r["session"], r["position"], r["role"], r["content"]) for r in found if "session" in r]


def test_chatgpt_shows_its_current_branch_and_keeps_the_others_as_sessions_of_their_own() -> None:
    assert turns("chatgpt") == [
        (TALK, 4, "user", "Which boat would suit two people?"),
        (TALK, 5, "assistant", "A small ketch."),
        (TALK, 6, "user", "And what does one cost?"),
        (TALK, 12, "assistant", "Between 28,000 and 34,000 euros."),
        (f"{TALK}/a2a", 7, "assistant", "About 30,000 euros."),
        (f"{TALK}/u2x", 6, "user", "Is a ketch hard to sail?"),
        (f"{TALK}/u2x", 7, "assistant", "Not in fair weather."),
        (TALK[:-1] + "2", 2, "user", "Say it in code."),
        (TALK[:-1] + "2", 3, "assistant", "print('ahoy')"),
    ]


def test_turns_of_chatgpt_keep_times_titles_and_models() -> None:
    found = {record["metadata"]["id"]: record for record in records(SAMPLES / "chatgpt")}
    assert found["a2b"]["occurred_at"] == "2025-01-01T10:01:20+00:00"
    assert found["a2b"]["metadata"]["fields"]["model"] == "o3"
    assert found["a2b"]["metadata"]["fields"]["title"] == "A boat for two"
    assert found["a2b"]["metadata"]["fields"]["created_at"] == "2025-01-01T10:00:00+00:00"
    assert found["u2x"]["metadata"]["fields"]["branch_of"] == "a1"
    assert found["b1"]["metadata"]["fields"]["type"] == "code"


def test_what_chatgpt_saved_comes_once_however_often_the_export_repeats_it() -> None:
    found = [record for record in records(SAMPLES / "chatgpt") if "session" not in record]
    assert [(record["content"], record["tags"]) for record in found] == [
        ("I sail on the Baltic.", ["custom instructions"]),
        ("Answer briefly.", ["custom instructions"]),
        ("Has a dog called Pim.", ["saved memory"]),
        ("Works as a carpenter.", ["saved memory"]),
        ("Is looking for a boat for two.", ["saved memory"]),
        ("Plays the concertina.", ["saved memory"]),
    ]
    assert found[3]["occurred_at"] == "2024-06-11T00:00:00+00:00"


def test_conversations_alone_are_an_export_too() -> None:
    name, found, left = read(SAMPLES / "chatgpt" / "conversations.json")
    assert (name, len(found)) == ("chatgpt", 14)
    assert ("tool message", "it is not shown in the conversation", 2) in left
    name, found, _ = read(SAMPLES / "claude" / "conversations.json")
    assert (name, len(found)) == ("claude", 6)
    assert read(SAMPLES / "claude" / "memories.json")[0] == "claude"


def test_claude_keeps_branches_attachments_projects_and_memories() -> None:
    told = {record["content"]: record for record in records(SAMPLES / "claude")}
    herbs, knots = "claude:c1000000-0000-4000-8000-000000000001", "claude:c1000000-0000-4000-8000-000000000002"
    assert [turn[:3] for turn in turns("claude")] == [
        (herbs, 0, "user"),
        (herbs, 1, "assistant"),
        (knots, 0, "user"),
        (knots, 1, "assistant"),
        (f"{knots}/k2", 1, "assistant"),
    ]
    assert told["Thyme and chives.\n\nPlant them close."]["metadata"]["fields"]["title"] == "Planning the herb bed"
    bed = told["The bed is 4 by 1.2 metres and faces the sea."]
    assert (bed["kind"], bed["metadata"]["fields"]["file"], bed["source"]) == ("document", "bed.txt", herbs)
    assert bed["metadata"]["fields"]["summary"] == "A herb bed with thyme and chives was planned."
    assert told["# Soil\n\nSandy, pH 6.8."]["metadata"]["fields"]["title"] == "soil.md"
    assert told["Answer in metric units."]["kind"] == "procedure"
    assert told["Gardens on the coast and sails a small ketch."]["tags"] == ["saved memory"]
    assert told["The herb bed is the first of three beds."]["source"].startswith("claude:project/")


def test_turns_that_come_in_several_requests_are_linked_as_if_they_came_in_one(memos: MemOS) -> None:
    found = [record for record in records(SAMPLES / "chatgpt") if "session" in record]
    for record in found:
        memos.import_memories([record], ME)
    kept = {item.content: item for item in memos.memories("default", ME).memories}
    assert all(item.kind is Kind.MESSAGE for item in kept.values())
    follows = {
        content: [edge.source for edge in memos.memory(item.id, ME).memory.lineage if edge.relation is Relation.FOLLOWS]
        for content, item in kept.items()
    }
    assert follows["A small ketch."] == [kept["Which boat would suit two people?"].id]
    assert follows["And what does one cost?"] == [kept["A small ketch."].id]
    assert follows["Between 28,000 and 34,000 euros."] == [kept["And what does one cost?"].id]
    assert follows["Not in fair weather."] == [kept["Is a ketch hard to sail?"].id]
    assert follows["Which boat would suit two people?"] == follows["Is a ketch hard to sail?"] == []


def test_a_secret_in_one_turn_keeps_the_others_of_its_conversation(memos: MemOS) -> None:
    found = records(SAMPLES / "chatgpt")
    found[5] = {**found[5], "content": "The key is AKIAIOSFODNN7QXBMPLE"}
    report = memos.import_memories(found, ME)
    assert report.added == len(found) - 1
    assert len(report.refused) == 1
    assert report.refused[0].startswith("record 6: ")
    assert "AKIA" not in report.refused[0]
