import {
  type Append,
  isEnd,
  type Job,
  keyOfAppend,
  type Owner,
  OWNERS,
  type Action,
  type Rules,
  type State,
  type Step,
  tokensIn,
} from "./world.ts";

const FREE = {
  phase: "free",
  jobs: [],
  delivery: 0,
  writer: "",
  seq: 0,
  index: 0,
  gathered: 0,
  sent: null,
  ending: null,
} as const;

export function initialState(rules: Rules): State {
  return {
    log: [],
    forgotten: 0,
    jobs: Array.from({ length: rules.numJobs }, () => ({ holder: "nobody", deliveries: 0 })),
    owners: OWNERS.map(() => ({ starts: 0, ...FREE })),
    orphans: [],
    redeliveries: rules.redeliveries,
    forgets: rules.forgets,
    strangers: rules.strangers,
    givesBack: rules.givesBack,
  };
}

export function steps(state: State, rules: Rules): Step[] {
  const found: Step[] = [];
  const add = (action: Action, next: State): void => void found.push({ action, next: withoutDeadOrphans(next, rules) });
  for (const [owner, { phase, sent, gathered, index, ending }] of state.owners.entries()) {
    if (phase === "reading") add({ do: "read", owner }, read(state, rules, owner));
    if (phase === "owning") {
      if (ending === null && index + (sent?.count ?? 0) + gathered < rules.numTokens) {
        add({ do: "generate", owner }, generate(state, rules, owner));
      }
      if (ending === null && rules.failures) {
        add({ do: "fail", owner }, pumped(state, rules, owner, { ending: "failed" }));
      }
      if (state.givesBack > 0) add({ do: "giveBack", owner }, givenBack(state, owner));
    }
    if (sent !== null && isAcceptable(state, rules, sent)) add({ do: "store", owner }, stored(state, sent));
    const answer = sent === null ? undefined : answerTo(state, rules, sent);
    if (answer !== undefined) add({ do: "answer", owner }, answered(state, rules, owner, answer));
    if (phase === "claiming") add({ do: "claimTimeout", owner }, released(abandoned(state, owner), owner));
    if (phase === "leaving") add({ do: "leaveTimeout", owner }, released(abandoned(state, owner), owner));
    if (phase !== "free" && (state.owners[owner] as Owner).starts < rules.crashes) {
      add({ do: "crash", owner }, crashed(state, owner));
    }
  }
  for (const [orphan, append] of state.orphans.entries()) {
    if (isAcceptable(state, rules, append)) add({ do: "storeOrphan", orphan }, stored(state, append));
  }
  for (const [job, { holder }] of state.jobs.entries()) {
    if (holder === "nobody") {
      for (const [owner, { phase }] of state.owners.entries()) {
        if (phase === "free" || phase === "owning") add({ do: "pull", owner, job }, pulled(state, rules, owner, job));
      }
    } else if (holder !== "done") {
      if (rules.ackWait) add({ do: "expire", job }, withJob(state, job, { holder: "nobody" }));
    } else if (state.redeliveries > 0) {
      const next = withJob(state, job, { holder: "nobody" });
      add({ do: "redeliver", job }, { ...next, redeliveries: state.redeliveries - 1 });
    }
  }
  if (state.forgets > 0 && state.forgotten < state.log.length) {
    add({ do: "forget" }, { ...state, forgotten: state.log.length, forgets: state.forgets - 1 });
  }
  if (state.strangers > 0 && !state.log.some(isEnd)) {
    const end: Append = {
      kind: "cancelled",
      writer: "stranger",
      index: 0,
      count: tokensIn(state.log),
      id: rules.ids === "owner" ? "end stranger" : "end",
      expected: state.log.length,
    };
    add({ do: "stranger" }, { ...state, orphans: [...state.orphans, end], strangers: state.strangers - 1 });
  }
  return found;
}

function pulled(state: State, rules: Rules, owner: number, job: number): State {
  const { deliveries } = state.jobs[job] as Job;
  // More deliveries than this make no difference to anybody.
  const counted = Math.min(deliveries + 1, rules.maxLostOwners + 1);
  const next = withJob(state, job, { holder: owner, deliveries: counted });
  const { phase, jobs } = state.owners[owner] as Owner;
  if (phase === "owning") return withOwner(next, owner, { jobs: [...new Set([...jobs, job])].sort((x, y) => x - y) });
  return withOwner(next, owner, { phase: "reading", jobs: [job], delivery: counted });
}

/** The log as it is now, and what the owner makes of it; nothing that happens afterwards is known to it. */
function read(state: State, rules: Rules, owner: number): State {
  const { log } = state;
  const { delivery, starts } = state.owners[owner] as Owner;
  if (log.some(isEnd)) return done(state, owner);
  const seq = log.length;
  const index = tokensIn(log);
  const writer = `${OWNERS[owner]}${starts}@${seq}`;
  const idle = log.slice(log.findLastIndex(({ kind }) => kind === "tokens") + 1);
  const numIdleClaims = idle.reduce((sum, { kind }) => sum + (kind === "left" ? -1 : 1), 0);
  const isPoison = delivery > rules.maxLostOwners && seq > 0 && numIdleClaims + 1 >= rules.maxLostOwners;
  if (isPoison) {
    const ending = index === rules.numTokens ? "completed" : "parked";
    return pumped(state, rules, owner, { phase: "owning", delivery: 0, writer, seq, index, ending });
  }
  if ((delivery > 1 || seq > 0) && rules.claim) {
    const id = `${index} claim ${OWNERS[owner]} ${seq}`;
    const sent: Append = { kind: "claim", writer, index, count: 0, id, expected: seq };
    return withOwner(state, owner, { phase: "claiming", delivery: 0, writer, seq, index, sent });
  }
  return owning(state, rules, owner, { writer, seq, index });
}

/** Takes up the work; the log may hold all tokens already, so that only the ending is missing. */
function owning(state: State, rules: Rules, owner: number, change: Partial<Owner> & { readonly index: number }): State {
  const ending = change.index === rules.numTokens ? "completed" : null;
  return pumped(state, rules, owner, { ...change, phase: "owning", delivery: 0, ending });
}

function generate(state: State, rules: Rules, owner: number): State {
  const { gathered, index, sent } = state.owners[owner] as Owner;
  const isLast = index + (sent?.count ?? 0) + gathered + 1 === rules.numTokens;
  return pumped(state, rules, owner, { gathered: gathered + 1, ending: isLast ? "completed" : null });
}

/** What is on its way may leave tokens; else a word is left, and the request goes back once that is answered. */
function givenBack(state: State, owner: number): State {
  const next = { ...state, givesBack: state.givesBack - 1 };
  const { sent, writer, index, seq } = state.owners[owner] as Owner;
  if (sent !== null) return released(abandoned(next, owner), owner);
  const id = `${index} left ${OWNERS[owner]} ${seq}`;
  const left: Append = { kind: "left", writer, index, count: 0, id, expected: seq };
  return withOwner(next, owner, { phase: "leaving", sent: left });
}

/** Changes an owner, which then sends what it has unless something is under way. */
function pumped(state: State, rules: Rules, owner: number, change: Partial<Owner>): State {
  const changed: Owner = { ...(state.owners[owner] as Owner), ...change };
  const { sent, gathered, writer, index, seq, ending } = changed;
  if (sent !== null || (gathered === 0 && ending === null)) return withOwner(state, owner, changed);
  const common = { writer, index, expected: seq };
  const name = rules.ids === "owner" ? ` ${OWNERS[owner]}` : "";
  const append: Append =
    gathered > 0
      ? { ...common, kind: "tokens", count: gathered, id: `${index}${name}` }
      : { ...common, kind: ending ?? "failed", count: index, id: `end${name}` };
  return withOwner(state, owner, { ...changed, gathered: 0, sent: append });
}

function seqOf(state: State, id: string): number | undefined {
  const position = state.log.findIndex((entry, i) => entry.id === id && i >= state.forgotten);
  return position < 0 ? undefined : position + 1;
}

function isAcceptable(state: State, rules: Rules, { id, expected }: Append): boolean {
  return seqOf(state, id) === undefined && (!rules.fence || expected === state.log.length);
}

function stored(state: State, { kind, writer, index, count, id }: Append): State {
  return { ...state, log: [...state.log, { kind, writer, index, count, id }] };
}

/** As the store answers, the first time or to a repeat: the seq, or a refusal. */
function answerTo(state: State, rules: Rules, { id, expected }: Append): number | "stale" | undefined {
  return seqOf(state, id) ?? (rules.fence && expected < state.log.length ? "stale" : undefined);
}

function answered(state: State, rules: Rules, owner: number, answer: number | "stale"): State {
  const { phase, sent, index } = state.owners[owner] as Owner;
  const arrived = withOwner(state, owner, { sent: null });
  if (phase === "leaving") return released(arrived, owner);
  if (phase === "claiming") {
    return answer === "stale" ? released(arrived, owner) : owning(arrived, rules, owner, { seq: answer, index });
  }
  if (answer === "stale") return rules.keepFencedJob ? withOwner(arrived, owner, FREE) : done(arrived, owner);
  if (sent !== null && isEnd(sent)) return done(arrived, owner);
  return pumped(arrived, rules, owner, { seq: answer, index: index + (sent?.count ?? 0) });
}

/** Every copy that it was ever given is off the queue, also one that somebody else holds now. */
function done(state: State, owner: number): State {
  let next = state;
  for (const job of (state.owners[owner] as Owner).jobs) next = withJob(next, job, { holder: "done" });
  return withOwner(next, owner, FREE);
}

/** Its copies go back to the queue, except those that the queue has given to somebody else. */
function released(state: State, owner: number): State {
  let next = state;
  for (const job of (state.owners[owner] as Owner).jobs) {
    if (state.jobs[job]?.holder === owner) next = withJob(next, job, { holder: "nobody" });
  }
  return withOwner(next, owner, FREE);
}

function abandoned(state: State, owner: number): State {
  const { sent } = state.owners[owner] as Owner;
  if (sent === null) return state;
  return withOwner({ ...state, orphans: [...state.orphans, sent] }, owner, { sent: null });
}

function crashed(state: State, owner: number): State {
  const { starts } = state.owners[owner] as Owner;
  return withOwner(abandoned(state, owner), owner, { ...FREE, starts: starts + 1 });
}

/** Orphans that the store would refuse now it will refuse for ever, and nobody waits for the answer; equal ones are one. */
function withoutDeadOrphans(state: State, rules: Rules): State {
  if (state.orphans.length === 0) return state;
  const alive = new Map<string, Append>();
  for (const append of state.orphans) {
    if (!rules.fence || append.expected === state.log.length) alive.set(keyOfAppend(append), append);
  }
  return { ...state, orphans: [...alive.keys()].sort().map((key) => alive.get(key) as Append) };
}

function withOwner(state: State, owner: number, change: Partial<Owner>): State {
  return { ...state, owners: state.owners.with(owner, { ...(state.owners[owner] as Owner), ...change }) };
}

function withJob(state: State, job: number, change: Partial<Job>): State {
  return { ...state, jobs: state.jobs.with(job, { ...(state.jobs[job] as Job), ...change }) };
}
