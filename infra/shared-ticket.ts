export const ID_BYTES = 16;
/** Payloads that a file can hold at a time. */
export const NUM_SLOTS = 1024;

/** Where a payload lies: id, then pid, fd, slot + 1024 × offset, length and use as doubles. */
export const TICKET_BYTES = ID_BYTES + 5 * 8;

export interface Ticket {
  /** Of the file, so that a reader in another PID namespace, or after a pid was reused, notices. */
  readonly id: Uint8Array;
  readonly pid: number;
  readonly fd: number;
  readonly slot: number;
  /** Of the payload, as the slot has it too. */
  readonly offset: number;
  readonly length: number;
  /** Number of the slot's use, from 1. */
  readonly use: number;
}

export function writeTicket({ id, pid, fd, slot, offset, length, use }: Ticket): Uint8Array {
  const bytes = new Uint8Array(TICKET_BYTES);
  bytes.set(id);
  const view = new DataView(bytes.buffer, ID_BYTES);
  for (const [i, value] of [pid, fd, slot + NUM_SLOTS * offset, length, use].entries())
    view.setFloat64(8 * i, value, true);
  return bytes;
}

/** Undefined for bytes that are no ticket. */
export function readTicket(bytes: Uint8Array): Ticket | undefined {
  if (bytes.length !== TICKET_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset + ID_BYTES, 5 * 8);
  const [pid, fd] = [view.getFloat64(0, true), view.getFloat64(8, true)];
  const [place, length, use] = [view.getFloat64(16, true), view.getFloat64(24, true), view.getFloat64(32, true)];
  for (const value of [pid, fd, place, length, use]) if (!(Number.isSafeInteger(value) && value >= 0)) return undefined;
  const [slot, offset] = [place % NUM_SLOTS, Math.floor(place / NUM_SLOTS)];
  return { id: bytes.subarray(0, ID_BYTES), pid, fd, slot, offset, length, use };
}
