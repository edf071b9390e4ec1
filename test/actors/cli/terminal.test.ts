import { PassThrough } from "node:stream";
import { beforeEach, describe, expect, test } from "vitest";
import { Terminal } from "../../../actors/cli/terminal.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { Capture } from "../../support/cli.ts";

let clock: SimulatedClock;
let stdout: Capture;

beforeEach(() => {
  clock = new SimulatedClock();
  stdout = new Capture();
});

describe("progress", () => {
  test("of what takes less than a second is not shown", () => {
    const stderr = new Capture();
    const terminal = new Terminal(stdout.stream, stderr.stream, clock);
    terminal.progress("one");
    clock.advance(999);
    terminal.done();
    expect(stderr.text).toBe("");
    expect(clock.pending).toBe(0);
  });

  test("as lines, the latest, at most every two seconds", () => {
    const stderr = new Capture();
    const terminal = new Terminal(stdout.stream, stderr.stream, clock);
    for (let tenth = 0; tenth < 50; tenth++) {
      terminal.progress(`step ${tenth}`);
      clock.advance(100);
    }
    expect(stderr.text).toBe("step 9\nstep 29\nstep 49\n");
  });

  test("on a terminal, as one line that a result takes away", () => {
    const stderr = new Capture(true);
    const terminal = new Terminal(stdout.stream, stderr.stream, clock);
    terminal.progress("loading");
    clock.advance(1000);
    terminal.write("result");
    terminal.done();
    expect(stderr.text).toBe("\r\u001b[Kloading\r\u001b[K");
    expect(stdout.text).toBe("result");
  });
});

describe("progress beside a result", () => {
  test.each([{ isTTY: true }, { isTTY: false }])("does not cut into a line of it (terminal: $isTTY)", ({ isTTY }) => {
    const stderr = new Capture(isTTY);
    const terminal = new Terminal(stdout.stream, stderr.stream, clock);
    clock.advance(5000);
    terminal.write("There was");
    terminal.progress("an actor starts again");
    clock.advance(5000);
    expect(stderr.text).toBe("");
    terminal.write(" a man.\n");
    terminal.progress("an actor loads");
    clock.advance(5000);
    expect(stderr.text).toContain("an actor loads");
  });

  test("does not take the prompt's place", () => {
    const stderr = new Capture(true);
    const terminal = new Terminal(new Capture(true).stream, stderr.stream, clock);
    clock.advance(5000);
    terminal.showPrompt("Once upon");
    terminal.progress("an actor starts again");
    clock.advance(5000);
    expect(stderr.text).not.toContain("an actor starts again");
  });
});

test("the prompt is shown to people only", () => {
  const [tty, pipe] = [new Capture(true), new Capture()];
  new Terminal(stdout.stream, tty.stream, clock).showPrompt("Once");
  new Terminal(new Capture(true).stream, pipe.stream, clock).showPrompt("Once");
  expect(tty.text + pipe.text).toBe("");
  new Terminal(new Capture(true).stream, tty.stream, clock).showPrompt("Once");
  expect(tty.text).toContain("Once");
});

test("a reader that has gone is told to whoever wants to know, and nothing is written any more", () => {
  const closed = new PassThrough();
  const terminal = new Terminal(closed, new Capture().stream, clock);
  let gone = 0;
  terminal.onReaderGone(() => gone++);
  closed.emit("error", Object.assign(new Error("write EPIPE"), { code: "EPIPE" }));
  terminal.onReaderGone(() => gone++);
  terminal.write("more");
  expect(gone).toBe(2);
  expect(closed.readableLength).toBe(0);
});

test("any other error of stdout is not hidden", () => {
  const broken = new PassThrough();
  const terminal = new Terminal(broken, new Capture().stream, clock);
  terminal.write("text");
  expect(() => broken.emit("error", Object.assign(new Error("disk full"), { code: "ENOSPC" }))).toThrow("disk full");
});
