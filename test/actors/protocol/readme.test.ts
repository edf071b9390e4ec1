import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { decodeGenerateRequest } from "../../../actors/protocol/decode.ts";
import { REQUEST_LIMITS } from "../../../actors/protocol/limits.ts";
import type { LogEvent } from "../../../actors/protocol/messages.ts";
import { openRequestQueue, openTokenLog } from "../../../actors/protocol/streams.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { encode } from "../../../infra/codec.ts";
import { ERROR_CODES } from "../../../infra/errors.ts";
import { CHECK_HEADER, checkOf } from "../../../infra/nats-checksum.ts";
import { connectNats } from "../../../infra/nats-connect.ts";
import { WIRE_DTYPES } from "../../../infra/tensor.ts";
import { DEFAULT_SAMPLING } from "../../../models/sampling/params.ts";
import { MESSAGES } from "../../support/messages.ts";
import { startTestServer } from "../../support/nats.ts";

const root = path.join(import.meta.dirname, "../../..");
const readme = await readFile(path.join(root, "actors/protocol/README.md"), "utf8");

/** Rows of all tables: the cells of each. */
const rows = readme
  .split("\n")
  .filter((line) => line.startsWith("|"))
  .map((line) =>
    line
      .slice(1, -1)
      .split(/(?<!\\)\|/u)
      .map((cell) => cell.trim()),
  );

const row = (field: string) => rows.find(([cell]) => cell === `\`${field}\``)?.at(-1) ?? "";

describe("the protocol's README says what the code does", () => {
  it("of subjects and streams", () => {
    const subjects = subjectsOf("d", 9);
    const named = [
      subjects.request,
      subjects.offer,
      subjects.tokens("ID"),
      subjects.cancel("ID"),
      subjects.follow("ID"),
      subjects.requestStream,
      subjects.tokenStream,
      subjects.placementBucket,
      subjects.ffn(0),
    ];
    for (const name of named) {
      const written = name
        .replace("rally.d.", "rally.<d>.")
        .replace("_d_", "_<d>_")
        .replace(/ID$/u, "<requestId>")
        .replace(/9\.0$/u, "<epoch>.<shard>");
      expect(readme).toContain(`\`${written}`);
    }
  });

  it("of the checksum beside every message that is kept", () => {
    expect(readme).toContain(`\`${CHECK_HEADER}\``);
    expect(checkOf(Buffer.from("123456789"))).toBe("cbf43926");
    expect(checkOf(new Uint8Array())).toBe("00000000");
  });

  it("of every field of every message", () => {
    const fields = Object.values(MESSAGES).flatMap((message) => Object.keys(message));
    for (const field of new Set(fields)) expect(readme).toContain(`\`${field}\``);
    for (const dtype of WIRE_DTYPES) expect(rows.map(([cell]) => cell)).toContain(`\`${dtype}\``);
  });

  it("of sampling defaults", () => {
    for (const [name, value] of Object.entries(DEFAULT_SAMPLING)) {
      expect(rows.find(([cell]) => cell === `\`${name}\``)?.[1]).toBe(String(value));
    }
  });

  it("of limits", () => {
    const { promptCharacters, promptTokens, maxTokens, stops, stopCharacters, logprobs, idleLimitMs } = REQUEST_LIMITS;
    expect(row("prompt")).toContain(`1 to ${promptCharacters.toLocaleString("en")} characters`);
    expect(row("prompt")).toContain(`1 to ${promptTokens.toLocaleString("en")} token ids`);
    expect(row("maxTokens")).toContain(`1 to ${maxTokens.toLocaleString("en")}`);
    expect(row("stop")).toContain(`at most ${stops}, each 1 to ${stopCharacters} characters`);
    expect(readme).toContain(`0 to ${logprobs}: report`);
    expect(row("idleLimitMs")).toContain(
      `${idleLimitMs.least.toLocaleString("en")} to ${idleLimitMs.most.toLocaleString("en")}:`,
    );
  });

  it("of error codes", () => {
    const section = readme.slice(readme.indexOf("### Error codes"), readme.indexOf("## Example"));
    const codes = [...section.matchAll(/^\| `([a-z-]+)` +\|/gmu)].map(([, code]) => code);
    expect(codes.length).toBeGreaterThan(5);
    for (const code of codes) expect(ERROR_CODES).toContain(code);
  });
});

it("the README's example asks and follows with nothing but nats and msgpackr", async () => {
  const start = readme.indexOf("```js\n") + 6;
  const example = readme.slice(start, readme.indexOf("```", start));
  const server = await startTestServer();
  try {
    const connection = await connectNats({ url: server.url }, { name: "owner" });
    const { durable } = connection;
    const subjects = subjectsOf("default");
    const queue = await openRequestQueue(durable, subjects);
    const log = await openTokenLog(durable, subjects);
    // Bare imports of a script on standard input are looked up from the working folder.
    const child = spawn(process.execPath, ["--input-type=module", "-"], {
      cwd: root,
      env: { ...process.env, NATS_URL: server.url },
      stdio: ["pipe", "pipe", "inherit"],
    });
    child.stdin.end(example);
    let output = "";
    child.stdout.on("data", (data: Buffer) => (output += data.toString()));
    const exited = new Promise((resolve) => child.on("exit", resolve));

    const [job] = await queue.pull(1, 20_000);
    if (job === undefined) throw new Error("no request came");
    const request = decodeGenerateRequest(job.payload);
    expect(request).toMatchObject({ prompt: "Once upon a time", maxTokens: 40, stop: [] });
    const { requestId } = request;
    const common = { requestId, owner: "attention-0" };
    const usage = { promptTokens: 4, outputTokens: 3 };
    const events: LogEvent[] = [
      { kind: "tokens", ...common, index: 0, ids: [7], texts: [" there"] },
      { kind: "tokens", ...common, owner: "attention-1", index: 1, ids: [], texts: [] },
      { kind: "tokens", ...common, index: 1, ids: [8, 9], texts: [" wa", "s"] },
      { kind: "completed", ...common, finishReason: "length", text: " a", usage },
    ];
    let expectedLastSeq = 0;
    for (const [i, event] of events.entries()) {
      const id = `${requestId}:${i}`;
      expectedLastSeq = (await log.append(subjects.tokens(requestId), encode(event), { id, expectedLastSeq })).seq;
    }
    await job.done();
    expect(await exited).toBe(0);
    expect(output).toBe(" there was a\ncompleted: length { promptTokens: 4, outputTokens: 3 }\n");
    await connection.close();
  } finally {
    await server.stop();
  }
});
