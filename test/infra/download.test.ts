import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { download } from "../../infra/download.ts";
import { FileServer, sendFile } from "../support/file-server.ts";

const content = randomBytes(300_000);
const sha256 = createHash("sha256").update(content).digest("hex");
const partName = `fetching-${sha256.slice(0, 16)}`;

let folder: string;
let server: FileServer | undefined;
let progress: string[];

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "rally-test-"));
  progress = [];
});
afterEach(() => {
  server?.stop();
  server = undefined;
  rmSync(folder, { recursive: true });
});

const left = () => readdirSync(folder);

async function serve(answer: (response: ServerResponse, from: number, asked: number) => void): Promise<void> {
  server = await FileServer.start((_path, from, response, { asked }) => answer(response, from, asked.length));
}

function get(options: { readonly sha256?: string; readonly signal?: AbortSignal; readonly url?: string } = {}) {
  const url = `${server?.url ?? "http://127.0.0.1:1"}/file`;
  return download({ url, sha256, name: "thing", folder, progress: (text) => void progress.push(text), ...options });
}

/** Sends so much of what is asked for, then breaks the connection. */
function breakAfter(bytes: number, response: ServerResponse, from: number): void {
  response.writeHead(from > 0 ? 206 : 200, {
    "content-length": content.length - from,
    ...(from > 0 && { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` }),
  });
  response.write(content.subarray(from, from + bytes), () => setTimeout(() => response.destroy(), 20));
}

it("fetches a file whose hash is right, saying how far it is", async () => {
  await serve((response, from) => sendFile(response, content, from));
  const file = await get();
  expect(readFileSync(file).equals(content)).toBe(true);
  expect(path.dirname(file)).toBe(folder);
  expect(progress[0]).toMatch(/^thing: fetching http:\/\/127/);
  expect(progress.at(-1)).toBe("thing: 0.3 of 0.3 MB");
});

it("goes on where a connection broke, by itself and in a later attempt", async () => {
  await serve((response, from, asked) => {
    if (asked === 1) breakAfter(100_000, response, from);
    else if (asked === 2) response.writeHead(500).end();
    else sendFile(response, content, from);
  });
  await expect(get()).rejects.toMatchObject({ code: "fetch-failed", message: expect.stringContaining("HTTP 500") });
  expect(left()).toEqual([`${partName}.part`]);
  const kept = readFileSync(path.join(folder, `${partName}.part`)).length;
  expect(kept).toBeGreaterThan(0);
  expect(readFileSync(await get()).equals(content)).toBe(true);
  expect(server?.asked.map(({ from }) => from)).toEqual([0, kept, kept]);
});

it("starts over where the server knows no ranges, or what was kept belongs to something else", async () => {
  writeFileSync(path.join(folder, `${partName}.part`), randomBytes(1000));
  await serve((response) => sendFile(response, content, 0));
  expect(readFileSync(await get()).equals(content)).toBe(true);
  server?.stop();
  rmSync(folder, { recursive: true });
  await serve((response, from) => sendFile(response, content, from));
  writeFileSync(path.join(mkdirAgain(), `${partName}.part`), randomBytes(1000));
  await expect(get()).rejects.toMatchObject({ code: "hash-mismatch" });
  expect(left()).toEqual([]);
  expect(readFileSync(await get()).equals(content)).toBe(true);
});

it("takes what a process that died has left, and leaves alone what belongs to a living one", async () => {
  const dead = 2 ** 22 + 1;
  writeFileSync(path.join(folder, `${partName}.${process.ppid}-0.part`), content.subarray(0, 10));
  writeFileSync(path.join(folder, `${partName}.${dead}-3.part`), content.subarray(0, 1000));
  await serve((response, from) => sendFile(response, content, from));
  const file = await get();
  expect(server?.asked).toEqual([{ path: "/file", from: 1000 }]);
  expect(left().toSorted()).toEqual([`${partName}.${process.ppid}-0.part`, path.basename(file)].toSorted());
});

it("asks for nothing when all of it is there already", async () => {
  writeFileSync(path.join(folder, `${partName}.part`), content);
  expect(readFileSync(await get()).equals(content)).toBe(true);
});

it("does not keep a file with another hash", async () => {
  await serve((response, from) => sendFile(response, Buffer.concat([content, Buffer.from("!")]), from));
  await expect(get()).rejects.toMatchObject({
    code: "hash-mismatch",
    message: expect.stringContaining("expected"),
    fields: { expected: sha256 },
  });
  expect(left()).toEqual([]);
});

it("says why nothing came, and leaves nothing", async () => {
  await expect(get()).rejects.toMatchObject({ code: "fetch-failed", message: expect.stringContaining("127.0.0.1:1") });
  await serve((response) => response.writeHead(404).end());
  await expect(get()).rejects.toMatchObject({ code: "fetch-failed", message: expect.stringContaining("HTTP 404") });
  expect(left()).toEqual([]);
});

it("ends when told to, and keeps what it has", async () => {
  const abort = new AbortController();
  await serve((response, from) => {
    response.writeHead(200, { "content-length": content.length });
    response.write(content.subarray(from, 50_000));
  });
  const going = download({
    url: `${server?.url}/file`,
    sha256,
    name: "thing",
    folder,
    progress: (text) => void (text.includes(" of ") && abort.abort()),
    signal: abort.signal,
  });
  await expect(going).rejects.toMatchObject({ code: "cancelled" });
  expect(left()).toEqual([`${partName}.part`]);
  await expect(get({ signal: abort.signal })).rejects.toMatchObject({ code: "cancelled" });
});

function mkdirAgain(): string {
  folder = mkdtempSync(path.join(tmpdir(), "rally-test-"));
  return folder;
}
