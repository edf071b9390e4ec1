import type { Clock } from "../../infra/clock.ts";

/** Resolves when nothing has happened for `quietMs`, after `limitMs` in any case. `lastAt`: when something last did. */
export function quietTime(
  clock: Clock,
  { quietMs, limitMs, lastAt }: { readonly quietMs: number; readonly limitMs: number; readonly lastAt: () => number },
): Promise<void> {
  const from = clock.elapsed();
  return new Promise((resolve) => {
    const look = () => {
      const now = clock.elapsed();
      const left = Math.min(Math.max(from, lastAt()) + quietMs, from + limitMs) - now;
      if (left <= 0) resolve();
      else clock.after(left, look);
    };
    look();
  });
}
