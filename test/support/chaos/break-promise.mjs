/**
 * Loaded before an attention actor's own code (NODE_OPTIONS=--import): breaks one promise on purpose, in the one request whose id
 * ends in RALLY_TEST_BREAK_REQUEST, so that the oracle can be seen to see it.
 */
import { pathToFileURL } from "node:url";

const promise = process.env.RALLY_TEST_BREAK;
const victim = process.env.RALLY_TEST_BREAK_REQUEST ?? "";
const dist = process.env.RALLY_TEST_DIST ?? "";
const load = (module) => import(pathToFileURL(`${dist}/${module}.js`).href);

if (promise !== undefined && (process.env.RALLY_ROLE ?? "").includes('"role":"attention"')) {
  if (promise === "leaked") await leakSlots();
  else await breakLog();
}

/** A sequence that nobody owns holds a slot in the engine: it is admitted beside the victim, and again before it has ended. */
async function leakSlots() {
  const { RoleThread } = await load("actors/protocol/role-thread");
  const { post } = RoleThread.prototype;
  let nextKey = 1_000_000_000;
  RoleThread.prototype.post = function (message) {
    post.call(this, message);
    if (message.kind !== "admit" || nextKey > 1_000_000_000) return;
    const leak = () =>
      post.call(this, { kind: "admit", request: { ...message.request, key: nextKey++, maxTokens: 900 } });
    setInterval(leak, 1_000).unref();
    leak();
  };
}

async function breakLog() {
  const { NatsLog } = await load("infra/nats-log");
  const { decode, encode } = await load("infra/codec");
  const { append } = NatsLog.prototype;
  let isDone = false;
  let seq = 1_000_000_000;
  NatsLog.prototype.append = async function (subject, payload, options) {
    const event = decode(payload);
    const isVictim = !isDone && event.requestId?.startsWith("chaos-") && event.requestId.endsWith(victim);
    const hasTokens = event.kind === "tokens" && event.index > 0 && event.ids.length > 0;
    if (!isVictim) return await append.call(this, subject, payload, options);
    const write = (changed) => append.call(this, subject, encode({ ...event, ...changed }), options);
    switch (promise) {
      case "lost":
        if (!hasTokens) break;
        isDone = true;
        return await write({ ids: [], texts: [], ...(event.logprobs && { logprobs: [] }) });
      case "changed":
        if (!hasTokens) break;
        isDone = true;
        return await write({ ids: [event.ids[0] === 5 ? 6 : 5, ...event.ids.slice(1)] });
      case "duplicated": {
        if (!hasTokens) break;
        isDone = true;
        const first = await append.call(this, subject, payload, options);
        return await append.call(this, subject, payload, { id: `${options.id}:again`, expectedLastSeq: first.seq });
      }
      case "unended":
        if (event.kind === "tokens") break;
        // Says that it is written.
        return { seq: seq++, duplicate: false };
      case "ended-twice": {
        if (event.kind === "tokens") break;
        isDone = true;
        const first = await append.call(this, subject, payload, options);
        return await append.call(this, subject, payload, { id: `${options.id}:again`, expectedLastSeq: first.seq });
      }
    }
    return await append.call(this, subject, payload, options);
  };
}
