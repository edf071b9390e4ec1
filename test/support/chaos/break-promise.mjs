/**
 * Loaded before an attention actor's own code (NODE_OPTIONS=--import): breaks one promise on purpose, in the one request whose id
 * matches RALLY_TEST_BREAK_REQUEST, so that the oracle can be seen to see it.
 */
import { pathToFileURL } from "node:url";

const promise = process.env.RALLY_TEST_BREAK;
const victim = new RegExp(process.env.RALLY_TEST_BREAK_REQUEST ?? "^$");
const dist = process.env.RALLY_TEST_DIST ?? "";
const load = (module) => import(pathToFileURL(`${dist}/${module}.js`).href);

if (promise !== undefined && (process.env.RALLY_ROLE ?? "").includes('"role":"attention"')) {
  if (promise === "leaked") await leakSlot();
  else await breakLog();
}

/**
 * The engine never gives the victim's place back. The main thread alone knows which request that is: it marks what it sends to
 * the engine's thread, which keeps a place for nobody once the marked sequence has ended.
 */
async function leakSlot() {
  const { OwnedRequests } = await load("actors/attention/owned-requests");
  const { RoleThread } = await load("actors/protocol/role-thread");
  const { Sequences } = await load("actors/attention/sequences");
  const { add } = OwnedRequests.prototype;
  const { post } = RoleThread.prototype;
  const { draw } = Sequences.prototype;
  let leakingKey;
  OwnedRequests.prototype.add = function (key, owned) {
    if (victim.test(owned.requestId)) leakingKey = key;
    add.call(this, key, owned);
  };
  RoleThread.prototype.post = function (message) {
    const isLeak = message.kind === "admit" && message.request.key === leakingKey;
    post.call(this, isLeak ? { ...message, request: { ...message.request, isLeak } } : message);
  };
  Sequences.prototype.draw = function (due, ...rest) {
    const tokens = draw.call(this, due, ...rest);
    for (const { request, gone } of due) if (gone && request.isLeak) this.add({ ...request, key: -1 });
    return tokens;
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
    const hasTokens = event.kind === "tokens" && event.index > 0 && event.ids.length > 0;
    if (isDone || !victim.test(event.requestId)) return await append.call(this, subject, payload, options);
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
