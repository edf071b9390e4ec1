import { describe, expect, it } from "vitest";
import type { Json } from "../../infra/nats-answer.ts";
import { JetStream } from "../../infra/nats-jetstream.ts";
import type { NatsLink, NatsMessage } from "../../infra/nats-link.ts";

/** A server that answers each question, in text, with what `answer` makes of it. */
function answering(answer: (question: Json) => string): { readonly link: NatsLink; readonly questions: string[] } {
  const questions: string[] = [];
  let receive: (message: NatsMessage) => void = () => undefined;
  const link: NatsLink = {
    serverVersion: "2.9.10",
    maxPayload: 1 << 20,
    connected: true,
    publish(subject, payload, reply = "") {
      questions.push(subject);
      const text = answer(JSON.parse(Buffer.from(payload).toString()) as Json);
      const message = { reply: undefined, status: 0, noResponders: false, header: () => undefined };
      queueMicrotask(() => receive({ ...message, subject: reply, payload: Buffer.from(text) }));
    },
    subscribe(_subject, handler) {
      receive = handler;
      return { unsubscribe: () => undefined };
    },
    onStatus: () => ({ unsubscribe: () => undefined }),
    flush: async () => undefined,
    close: async () => undefined,
  };
  return { link, questions };
}

const config = { deliver_subject: "inbox", num_replicas: 1 };

describe("what JetStream is asked", () => {
  it("is asked once if the server does it", async () => {
    const { link, questions } = answering((question) => JSON.stringify(question));
    expect(await new JetStream(link).call("CONSUMER.CREATE.S", { config })).toEqual({ config });
    expect(questions).toEqual(["$JS.API.CONSUMER.CREATE.S"]);
  });

  it("is asked again if something else was done, or the answer is no JSON", async () => {
    const answers = ['{"config":{"deliver_subject":"inbux","num_replicas":1}}', "{", '{"config":{"num_replicas":1}}'];
    const { link, questions } = answering((question) => answers.shift() ?? JSON.stringify(question));
    expect(await new JetStream(link).call("CONSUMER.CREATE.S", { config })).toEqual({ config });
    expect(questions).toHaveLength(4);
  });

  it("may always be done in the server's own way: it is asked for a while once, and never again", async () => {
    const own = { config: { ...config, num_replicas: 3 } };
    const { link, questions } = answering(() => JSON.stringify(own));
    const jetStream = new JetStream(link);
    expect(await jetStream.call("CONSUMER.CREATE.S", { config })).toEqual(own);
    expect(questions).toHaveLength(4);
    expect(await jetStream.call("CONSUMER.CREATE.T", { config })).toEqual(own);
    expect(questions).toHaveLength(5);
  });

  it("is asked again when it is refused for a reason that damage explains, and that reason told if it stays", async () => {
    const refusal = { error: { code: 400, err_code: 10025, description: "invalid JSON" } };
    const once = [JSON.stringify(refusal)];
    const damaged = answering((question) => once.shift() ?? JSON.stringify(question));
    expect(await new JetStream(damaged.link).call("CONSUMER.CREATE.S", { config })).toEqual({ config });
    const stubborn = answering(() => JSON.stringify(refusal));
    await expect(new JetStream(stubborn.link).call("CONSUMER.CREATE.S", { config })).rejects.toMatchObject({
      code: "store-unavailable",
      fields: { jetstream: 10025 },
    });
    expect(stubborn.questions).toHaveLength(8);
  });

  it("is not asked again when the refusal is the answer", async () => {
    const { link, questions } = answering(
      () => '{"error":{"code":404,"err_code":10059,"description":"stream not found"}}',
    );
    await expect(new JetStream(link).call("STREAM.INFO.S", {})).rejects.toMatchObject({ fields: { jetstream: 10059 } });
    expect(questions).toHaveLength(1);
  });
});

describe("what a stream says of a message that it was sent", () => {
  const sent = async (answer: string) => {
    const { link } = answering(() => answer);
    return await new JetStream(link).publish("s", Buffer.from("{}"), []);
  };

  it("may be that it certainly has not had it before, or has, or something like it", async () => {
    expect(await sent('{"stream":"S","seq":7}')).toEqual({ seq: 7, duplicate: false, isFirst: true });
    expect(await sent('{"stream":"S","seq":7,"duplicate":true}')).toEqual({ seq: 7, duplicate: true, isFirst: false });
    expect(await sent('{"stream":"S","seq":7,"dupligate":true}')).toEqual({ seq: 7, duplicate: false, isFirst: false });
  });

  it("may be damaged, or be said by somebody else", async () => {
    await expect(sent('{"stream":"S","sep":7}')).rejects.toMatchObject({ code: "corrupted" });
    await expect(sent('{"str')).rejects.toMatchObject({ code: "corrupted" });
    await expect(sent('{"hello":1}')).rejects.toMatchObject({ code: "store-unavailable" });
  });
});
