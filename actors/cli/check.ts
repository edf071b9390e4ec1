/** One thing that Rally needs, as `rally doctor` tells it. */
export interface Check {
  readonly name: string;
  readonly state: "ok" | "warning" | "missing";
  readonly found: string;
  /** What to do about it; nothing when it is in order. */
  readonly advice?: string;
}
