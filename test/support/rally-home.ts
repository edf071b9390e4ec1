import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect } from "vitest";
import { findNatsServer } from "../../infra/nats-server.ts";
import { compiledFile } from "../../infra/own-file.ts";

/** A `rally` that was started, with what it said so far. */
export interface RallyProcess {
  readonly child: ChildProcess;
  readonly output: { stdout: string; stderr: string };
  readonly status: Promise<number | null>;
  /** Resolves once stdout or stderr holds the text; rejects if it ends before that. */
  said(text: string): Promise<void>;
  /** The first event of this kind, for commands with --json. */
  event<E extends object>(kind: string): Promise<E>;
}

export interface HomeOptions {
  /** Command line before `node`, e.g. to enter a network namespace. */
  readonly prefix?: readonly string[];
  /** Another data folder, as another host has. */
  readonly data?: string;
}

/** `rally` as its users have it: real processes, with data, cache and temporary files in folders of the test's own. */
export class RallyHome {
  readonly base: string;
  readonly env: NodeJS.ProcessEnv;
  readonly #running = new Set<ChildProcess>();

  private constructor(base: string, natsServer: string, cache: string | undefined) {
    this.base = base;
    mkdirSync(path.join(base, "tmp"));
    const { NATS_URL: _, ...inherited } = process.env;
    this.env = {
      ...inherited,
      RALLY_NATS_SERVER: natsServer,
      XDG_DATA_HOME: path.join(base, "data"),
      TMPDIR: path.join(base, "tmp"),
      ...(cache !== undefined && { XDG_CACHE_HOME: cache }),
    };
  }

  /** `cache`: "own" for a cache folder that is empty at first. */
  static async make(cache?: "own"): Promise<RallyHome> {
    const base = mkdtempSync(path.join(tmpdir(), "rally-test-"));
    const { path: natsServer } = await findNatsServer();
    return new RallyHome(base, natsServer, cache === "own" ? path.join(base, "cache") : undefined);
  }

  rally(args: readonly string[], { prefix = [], data = "data" }: HomeOptions = {}): RallyProcess {
    const [file = "", ...rest] = [...prefix, process.execPath, compiledFile("actors/cli/main"), ...args];
    const env = { ...this.env, XDG_DATA_HOME: path.join(this.base, data) };
    const child = spawn(file, rest, { env, stdio: ["ignore", "pipe", "pipe"] });
    this.#running.add(child);
    const output = { stdout: "", stderr: "" };
    const waiting = new Set<() => void>();
    for (const name of ["stdout", "stderr"] as const) {
      child[name]?.setEncoding("utf8").on("data", (text: string) => {
        output[name] += text;
        for (const look of waiting) look();
      });
    }
    const status = new Promise<number | null>((resolve) => {
      child.on("close", (code) => {
        this.#running.delete(child);
        resolve(code);
      });
    });
    const until = <T>(what: string, find: () => T | undefined) =>
      new Promise<T>((resolve, reject) => {
        const look = () => {
          const found = find();
          if (found === undefined) return;
          waiting.delete(look);
          resolve(found);
        };
        waiting.add(look);
        look();
        void status.then((code) =>
          reject(new Error(`rally ${args[0]} ended with ${code} before ${what}: ${output.stdout}${output.stderr}`)),
        );
      });
    return {
      child,
      output,
      status,
      said: async (text) => void (await until(text, () => (output.stdout + output.stderr).includes(text) || undefined)),
      event: <E>(kind: string) =>
        until(kind, () => {
          const line = output.stdout.split("\n").find((each) => each.includes(`{"event":"${kind}"`));
          return line === undefined ? undefined : (JSON.parse(line) as E);
        }),
    };
  }

  /** Every process of this home knows its folder by its environment. */
  pids(): number[] {
    return readdirSync("/proc").flatMap((pid) => {
      if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return [];
      try {
        return readFileSync(`/proc/${pid}/environ`, "utf8").includes(`TMPDIR=${this.base}`) ? [Number(pid)] : [];
      } catch {
        return [];
      }
    });
  }

  natsServerPids(): number[] {
    return this.pids().filter((pid) => /nats-server[^\0]*\0-c/.test(textOf(`/proc/${pid}/cmdline`)));
  }

  /** The actors whose slot's name begins so. */
  actorPids(name: string): number[] {
    return this.pids().filter((pid) => roleOf(pid)?.id.startsWith(name) === true);
  }

  /** As when the power fails: nobody gets to say goodbye. Resolves when all are gone. */
  async killEverything(): Promise<void> {
    // Stopped first, so that none sees another go.
    for (const pid of this.pids()) kill(pid, "SIGSTOP");
    for (const pid of this.pids()) kill(pid, "SIGKILL");
    await this.#untilGone();
  }

  async expectNothingLeft(): Promise<void> {
    await this.#untilGone();
    expect(readdirSync(path.join(this.base, "tmp"))).toEqual([]);
  }

  endAll(): void {
    for (const pid of this.pids()) kill(pid, "SIGKILL");
  }

  /** A process that has just been ended is there a moment longer. */
  async #untilGone(): Promise<void> {
    for (let tries = 0; tries < 50 && this.pids().length > 0; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(this.pids()).toEqual([]);
  }

  async remove(): Promise<void> {
    this.endAll();
    await Promise.all([...this.#running].map((child) => new Promise((resolve) => child.once("close", resolve))));
    rmSync(this.base, { recursive: true, force: true });
  }
}

export function roleOf(pid: number): { readonly id: string; readonly role: string } | undefined {
  const role = /RALLY_ROLE=(\{[^\0]*\})/.exec(textOf(`/proc/${pid}/environ`))?.[1];
  return role === undefined ? undefined : (JSON.parse(role) as { id: string; role: string });
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended in the meantime.
  }
}
