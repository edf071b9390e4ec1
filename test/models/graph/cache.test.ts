import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { cachedGraphs } from "../../../models/graph/cache.ts";

let cacheDir: string;

beforeEach(() => {
  cacheDir = mkdtempSync(path.join(tmpdir(), "rally-cache-"));
});

afterEach(() => rmSync(cacheDir, { recursive: true, force: true }));

/** Builds an entry of one file; counts how often it had to. */
class Builder {
  built = 0;

  get(key = "k", during: (dir: string) => void = () => undefined): string {
    return cachedGraphs(cacheDir, key, (dir) => {
      this.built++;
      writeFileSync(path.join(dir, "graph.onnx"), `graph of ${key}`);
      during(dir);
    });
  }
}

describe("the graph cache", () => {
  it("builds once for each key", () => {
    const builder = new Builder();
    const dir = builder.get();
    expect(builder.get()).toBe(dir);
    expect(builder.built).toBe(1);
    expect(builder.get("other")).not.toBe(dir);
    expect(builder.built).toBe(2);
  });

  it.each([
    ["is cut short", (file: string) => truncateSync(file, 3)],
    [
      "has one byte changed",
      (file: string) => writeFileSync(file, readFileSync(file, "utf8").replace("graph", "groph")),
    ],
    ["is gone", (file: string) => rmSync(file)],
  ])("builds again when a file %s", (_, damage) => {
    const builder = new Builder();
    const dir = builder.get();
    damage(path.join(dir, "graph.onnx"));
    expect(readFileSync(path.join(builder.get(), "graph.onnx"), "utf8")).toBe("graph of k");
    expect(builder.built).toBe(2);
  });

  it("builds again when the manifest is missing or nonsense", () => {
    const builder = new Builder();
    const manifest = path.join(builder.get(), "manifest.json");
    for (const text of ["", "null", "{}", '{"files":{}}']) {
      writeFileSync(manifest, text);
      builder.get();
    }
    expect(builder.built).toBe(5);
  });

  it("takes what another process finished meanwhile", () => {
    const [first, second] = [new Builder(), new Builder()];
    const dir = first.get("k", () => void second.get());
    expect(readFileSync(path.join(dir, "graph.onnx"), "utf8")).toBe("graph of k");
    expect([first.built, second.built]).toEqual([1, 1]);
    expect(readdirSync(path.dirname(dir))).toEqual(["k"]);
  });

  it("clears away what a dead process left, and nothing younger", () => {
    const graphs = path.join(cacheDir, "graphs");
    const old = new Date(Date.now() - 2 * 60 * 60 * 1000);
    for (const name of ["a.build-old", "a.build-new"]) mkdirSync(path.join(graphs, name), { recursive: true });
    utimesSync(path.join(graphs, "a.build-old"), old, old);
    new Builder().get();
    expect(readdirSync(graphs).sort()).toEqual(["a.build-new", "k"]);
  });

  it("leaves nothing of a build that failed", () => {
    expect(() =>
      cachedGraphs(cacheDir, "k", () => {
        throw new Error("disk full");
      }),
    ).toThrow("disk full");
    expect(readdirSync(path.join(cacheDir, "graphs"))).toEqual([]);
  });

  it("names the folder when it cannot be written", () => {
    const file = path.join(cacheDir, "file");
    writeFileSync(file, "");
    expect(() => cachedGraphs(file, "k", () => undefined)).toThrow(
      expect.objectContaining({ code: "bad-settings", fields: { field: "cacheDir", found: file } }),
    );
  });
});
