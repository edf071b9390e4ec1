import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { mendFolder, placeFolder } from "../../infra/place-folder.ts";

let root: string;
let folder: string;

beforeEach(() => {
  root = mkdtempSync(path.join(tmpdir(), "rally-place-"));
  folder = path.join(root, "folder");
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

function make(name: string, content: string): string {
  const made = path.join(root, name);
  mkdirSync(path.join(made, "lib"), { recursive: true });
  writeFileSync(path.join(made, "lib", "a"), content);
  writeFileSync(path.join(made, "manifest"), `of ${content}`);
  return made;
}

const read = (name: string) => readFileSync(path.join(folder, name), "utf8");

it("moves a folder to where there is none", () => {
  expect(placeFolder(make("one", "first"), folder)).toBe(true);
  expect(read("lib/a")).toBe("first");
  expect(readdirSync(root)).toEqual(["folder"]);
});

it("leaves what is there alone", () => {
  placeFolder(make("one", "first"), folder);
  const second = make("two", "second");
  expect(placeFolder(second, folder)).toBe(false);
  expect([read("lib/a"), read("manifest")]).toEqual(["first", "of first"]);
  expect(readFileSync(path.join(second, "lib", "a"), "utf8")).toBe("second");
});

it("says why it cannot be moved", () => {
  expect(() => placeFolder(path.join(root, "missing"), folder)).toThrow("ENOENT");
});

it.each([
  ["a file is another", () => writeFileSync(path.join(folder, "lib", "a"), "broken")],
  ["a file is missing", () => rmSync(path.join(folder, "lib", "a"))],
  ["a folder is missing", () => rmSync(path.join(folder, "lib"), { recursive: true })],
  [
    "there is a folder instead of a file",
    () => {
      rmSync(path.join(folder, "lib", "a"));
      mkdirSync(path.join(folder, "lib", "a", "deeper"), { recursive: true });
    },
  ],
  [
    "there is a file instead of a folder",
    () => {
      rmSync(path.join(folder, "lib"), { recursive: true });
      writeFileSync(path.join(folder, "lib"), "");
    },
  ],
  [
    "there is a file instead of all of it",
    () => {
      rmSync(folder, { recursive: true });
      writeFileSync(folder, "");
    },
  ],
])("mends what is broken: %s", (_, damage) => {
  placeFolder(make("one", "first"), folder);
  damage();
  mendFolder(make("two", "first"), folder, "manifest");
  expect([read("lib/a"), read("manifest")]).toEqual(["first", "of first"]);
});
