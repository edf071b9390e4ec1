import { initialState, steps } from "./model.ts";
import { type Action, CALM, isEnd, keyOfAppend, type Rules, type State, tokensIn } from "./world.ts";

export interface Exploration {
  readonly numStates: number;
  readonly numSteps: number;
  readonly endings: ReadonlySet<string>;
  /** The shortest way to a state that must not be, or from which no ending can be reached. */
  readonly counterexample: { readonly promise: string; readonly actions: readonly Action[] } | undefined;
}

const MAX_STATES = 600_000;

/** Every state that can be reached, breadth first. */
export function explore(rules: Rules): Exploration {
  const states: State[] = [initialState(rules)];
  const numbers = new Map<string, number>([[keyOf(states[0] as State), 0]]);
  const cameFrom: { readonly parent: number; readonly action: Action }[] = [];
  /** By state: those from which a calm step leads here. */
  const calmly: number[][] = [[]];
  const endings = new Set<string>();
  let numSteps = 0;
  const wayTo = (number: number): Action[] => {
    const actions: Action[] = [];
    for (let at = number; at > 0;) {
      const { parent, action } = cameFrom[at - 1] as { parent: number; action: Action };
      actions.unshift(action);
      at = parent;
    }
    return actions;
  };
  const result = (counterexample?: Exploration["counterexample"]): Exploration => ({
    numStates: states.length,
    numSteps,
    endings,
    counterexample,
  });

  for (let number = 0; number < states.length; number++) {
    const state = states[number] as State;
    const promise = brokenPromise(state, rules);
    if (promise !== undefined) return result({ promise, actions: wayTo(number) });
    const end = state.log.find(isEnd);
    if (end !== undefined) endings.add(end.kind);
    for (const { action, next } of steps(state, rules)) {
      numSteps++;
      const key = keyOf(next);
      let to = numbers.get(key);
      if (to === undefined) {
        to = states.length;
        if (to === MAX_STATES) throw new Error(`more than ${MAX_STATES} states: the rules leave something unbounded`);
        numbers.set(key, to);
        states.push(next);
        cameFrom.push({ parent: number, action });
        calmly.push([]);
      }
      if (CALM.has(action.do)) (calmly[to] as number[]).push(number);
    }
  }

  const hopeful = new Uint8Array(states.length);
  const frontier = states.flatMap(({ log }, number) => (log.some(isEnd) ? [number] : []));
  for (const number of frontier) hopeful[number] = 1;
  for (let number = frontier.pop(); number !== undefined; number = frontier.pop()) {
    for (const before of calmly[number] as number[]) {
      if (hopeful[before] === 1) continue;
      hopeful[before] = 1;
      frontier.push(before);
    }
  }
  const hopeless = hopeful.indexOf(0);
  if (hopeless < 0) return result();
  return result({ promise: "an ending can always be reached", actions: wayTo(hopeless) });
}

/** The promise that this state breaks, if any. */
function brokenPromise({ log, owners, jobs }: State, rules: Rules): string | undefined {
  const writers = new Set<string>();
  let last = "";
  let numTokens = 0;
  for (const [i, entry] of log.entries()) {
    if (entry.writer !== last && writers.has(entry.writer)) return "an owner that was succeeded writes no more";
    writers.add((last = entry.writer));
    if (isEnd(entry)) {
      if (i !== log.length - 1) return "exactly one ending, and nothing behind it";
      if (entry.count !== numTokens) return "an ending counts the tokens before it";
      if (entry.kind === "completed" && numTokens !== rules.numTokens) return "a completed request has all its tokens";
    } else if (entry.index !== numTokens) return "each index once, in order";
    if (entry.kind === "tokens") numTokens += entry.count;
  }
  if (!log.some(isEnd) && jobs.some(({ holder }) => holder === "done")) return "no job is done before its ending";
  // Whoever finds a poisoned request, or one that lacks only its ending, needs no claim to end it at once.
  const heard = owners.filter(({ phase, seq, ending }) => phase === "owning" && seq === log.length && ending === null);
  // A copy that was sent twice may be begun twice: then the first append decides.
  if (heard.length > 1 && rules.numJobs === 1) return "at most one owner would be heard";
  return tokensIn(log) <= rules.numTokens ? undefined : "no more tokens than asked for";
}

/** Short, because there are many: equal exactly for equal states. */
function keyOf(state: State): string {
  let key = `${state.forgotten},${state.redeliveries},${state.forgets},${state.strangers},${state.givesBack}`;
  for (const { id, writer, kind, count } of state.log) key += `|${kind[0]}${id},${writer},${count}`;
  for (const { holder, deliveries } of state.jobs) key += `;${holder}.${deliveries}`;
  for (const owner of state.owners) {
    const { starts, phase, jobs, delivery, writer, seq, index, gathered, sent, ending } = owner;
    key += `/${starts}${phase}${jobs.join("+")},${delivery},${writer},${seq},${index},${gathered},${ending}`;
    if (sent !== null) key += `>${sent.id},${sent.count},${sent.expected}`;
  }
  for (const orphan of state.orphans) key += `!${keyOfAppend(orphan)}`;
  return key;
}
