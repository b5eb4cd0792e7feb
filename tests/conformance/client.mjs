// A TypeScript SDK client that does what an assistant does: list the tools, remember, recall, read a resource.
// It says what it saw as one JSON object.
//
//   node client.mjs legacy|auto http URL
//   node client.mjs legacy|auto stdio COMMAND [ARGUMENT...]

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

const [era, kind, target, ...more] = process.argv.slice(2);

const client = new Client(
  { name: "memos-mcp-tests", version: "1.0.0" },
  { capabilities: {}, versionNegotiation: { mode: era } },
);
const transport =
  kind === "http"
    ? new StreamableHTTPClientTransport(new URL(target))
    : new StdioClientTransport({ command: target, args: more, env: process.env, stderr: "inherit" });

await client.connect(transport);
const { tools } = await client.listTools();
const text = `The ${era} kettle over ${kind} whistles in F sharp.`;
const remembered = await client.callTool({ name: "remember", arguments: { content: text } });
const { id } = remembered.structuredContent.stored[0];
const recalled = await client.callTool({
  name: "recall",
  arguments: { query: `In what key does the ${era} kettle over ${kind} whistle?` },
});
const refused = await client.callTool({ name: "recall", arguments: { query: "x", top_k: 3 } });
const read = await client.readResource({ uri: `memos://memories/${id}` });
const prompts = await client.listPrompts();
await client.close();

console.log(
  JSON.stringify({
    tools: tools.map((tool) => tool.name),
    kept: id,
    found: recalled.structuredContent.memories.filter((memory) => memory.id === id).map((memory) => memory.content),
    refused: refused.isError ? refused.content[0].text : null,
    read: JSON.parse(read.contents[0].text).content,
    prompts: prompts.prompts.map((prompt) => prompt.name),
  }),
);
