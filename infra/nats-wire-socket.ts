import net from "node:net";
import { headerBlock, type NatsHeaders } from "./nats-link.ts";
import { WireParser, type WireEvents } from "./nats-wire-parser.ts";

/** Below this it is cheaper to copy a payload next to its protocol line than to hand the kernel three pieces. */
const COPY_BELOW = 16 * 1024;
const SLAB_BYTES = 128 * 1024;

/**
 * One TCP connection that speaks the NATS protocol. What is written within one turn of the event loop leaves in one call:
 * lines and small payloads from a slab that is used over and over, large payloads from where they are.
 */
export class WireSocket {
  readonly #socket: net.Socket;
  #slab = Buffer.allocUnsafeSlow(SLAB_BYTES);
  /** Written to the slab but not yet among the chunks: [from, at) */
  #from = 0;
  #at = 0;
  readonly #chunks: Uint8Array[] = [];
  #chunkBytes = 0;
  #scheduled = false;

  constructor(
    address: { readonly host: string; readonly port: number },
    events: WireEvents,
    closed: (error?: Error) => void,
  ) {
    const parser = new WireParser(events);
    let failure: Error | undefined;
    this.#socket = net.connect({
      ...address,
      noDelay: true,
      onread: {
        buffer: () => parser.target(),
        callback: (count) => {
          parser.received(count);
          return true;
        },
      },
    });
    this.#socket.on("error", (error) => (failure = error));
    this.#socket.on("close", () => closed(failure));
  }

  /** Bytes that the kernel has not taken yet. */
  get waitingBytes(): number {
    return this.#chunkBytes + (this.#at - this.#from) + this.#socket.writableLength;
  }

  line(text: string): void {
    this.#text(text);
    this.#schedule();
  }

  publish(subject: string, payload: Uint8Array, reply: string | undefined, headers: NatsHeaders | undefined): void {
    const target = reply === undefined ? subject : `${subject} ${reply}`;
    if (headers === undefined) {
      this.#text(`PUB ${target} ${payload.length}\r\n`);
    } else {
      const block = headerBlock(headers);
      const blockBytes = Buffer.byteLength(block);
      this.#text(`HPUB ${target} ${blockBytes} ${blockBytes + payload.length}\r\n${block}`);
    }
    if (payload.length < COPY_BELOW) {
      this.#room(payload.length);
      this.#slab.set(payload, this.#at);
      this.#at += payload.length;
    } else {
      this.#closeChunk();
      this.#chunks.push(payload);
      this.#chunkBytes += payload.length;
    }
    this.#text("\r\n");
    this.#schedule();
  }

  /** Sends what is queued, then lets go. */
  end(): void {
    this.#flush();
    this.#socket.end();
  }

  destroy(error?: Error): void {
    this.#socket.destroy(error);
  }

  #text(text: string): void {
    // At most three bytes of UTF-8 for each unit of a JavaScript string.
    this.#room(text.length * 3);
    this.#at += this.#slab.write(text, this.#at);
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#slab.length) return;
    this.#closeChunk();
    this.#slab = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, bytes));
    this.#from = 0;
    this.#at = 0;
  }

  #closeChunk(): void {
    if (this.#at === this.#from) return;
    this.#chunks.push(this.#slab.subarray(this.#from, this.#at));
    this.#chunkBytes += this.#at - this.#from;
    this.#from = this.#at;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => this.#flush());
  }

  #flush(): void {
    this.#scheduled = false;
    this.#closeChunk();
    const [first] = this.#chunks;
    if (first !== undefined && !this.#socket.destroyed) {
      if (this.#chunks.length === 1) {
        this.#socket.write(first);
      } else {
        this.#socket.cork();
        for (const chunk of this.#chunks) this.#socket.write(chunk);
        this.#socket.uncork();
      }
    }
    this.#chunks.length = 0;
    this.#chunkBytes = 0;
    // The kernel has taken everything, so the slab's bytes are free again.
    if (this.#socket.writableLength === 0) {
      this.#from = 0;
      this.#at = 0;
    }
  }
}
