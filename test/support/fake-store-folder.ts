import type { StoreFolder } from "../../actors/supervisor/store-folder.ts";
import type { RallyError } from "../../infra/errors.ts";

/** A folder on a disk that is as full as a test says. */
export class FakeFolder implements StoreFolder {
  free = Infinity;
  broken: RallyError | undefined;
  port: number | undefined;
  readonly kept: string[] = [];

  async check(): Promise<void> {
    if (this.broken !== undefined) throw this.broken;
  }

  async hasRoom(_folder: string, bytes: number): Promise<boolean> {
    return this.free >= bytes;
  }

  async lastPort(): Promise<number | undefined> {
    return this.port;
  }

  async claim(folder: string): Promise<void> {
    this.kept.push(`${folder} claimed`);
  }

  async sweep(): Promise<void> {
    this.kept.push("swept");
  }

  async keepPort(folder: string, port: number): Promise<void> {
    this.kept.push(`${folder} ${port}`);
  }
}
