"""The four tools and the resources from Python, with the official MCP client over stdio."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from local_memory import data_folder, folder_option, server, use
from mcp import Client


async def tour(data: Path) -> None:
    async with Client(server(data)) as client:
        print(f"connected, protocol {client.protocol_version}")

        first = await use(
            client,
            "remember",
            content="The staging server of the Heron project listens on port 8080.",
            kind="fact",
            tags=["heron"],
            occurred_at="2026-03-02",
        )
        second = await use(client, "remember", content="The staging server of the Heron project listens on port 9090.")
        print("remember:", first["stored"], second["stored"])

        found = await use(client, "recall", query="Which port does Heron's staging server use?", limit=3)
        for memory in found["memories"]:
            print(f"recall:   {memory['score']:.2f}  {memory['content']}")

        ids = [first["stored"][0]["id"], second["stored"][0]["id"]]
        fused = await use(
            client, "fuse", ids=ids, content="Heron's staging server listens on port 9090; until March 2026 on 8080."
        )
        print("fuse:    ", fused["fused"], "from", fused["merged"])

        for resource in (await client.list_resources()).resources:
            print("resource:", resource.uri)
        body = await client.read_resource(f"memos://memories/{fused['fused']['id']}")
        print("read:    ", json.loads(getattr(body.contents[0], "text", "{}"))["content"])

        gone = await use(client, "forget", ids=[fused["fused"]["id"]], reason="the example is over")
        print("forget:  ", gone["forgotten"])


if __name__ == "__main__":
    chosen = folder_option("The four tools and the resources from Python.")
    with data_folder(chosen) as folder:
        asyncio.run(tour(folder))
