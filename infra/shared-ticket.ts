export const ID_BYTES = 16;

/** Where a payload lies: id, then pid, fd, slot, length and use as doubles. */
export const TICKET_BYTES = ID_BYTES + 5 * 8;

export interface Ticket {
  /** Of the file, so that a reader in another PID namespace, or after a pid was reused, notices. */
  readonly id: Uint8Array;
  readonly pid: number;
  readonly fd: number;
  readonly slot: number;
  readonly length: number;
  /** Number of the slot's use, from 1. */
  readonly use: number;
}

export function writeTicket({ id, pid, fd, slot, length, use }: Ticket): Uint8Array {
  const bytes = new Uint8Array(TICKET_BYTES);
  bytes.set(id);
  const view = new DataView(bytes.buffer, ID_BYTES);
  for (const [i, value] of [pid, fd, slot, length, use].entries()) view.setFloat64(8 * i, value, true);
  return bytes;
}

/** Undefined for bytes that are no ticket. */
export function readTicket(bytes: Uint8Array): Ticket | undefined {
  if (bytes.length !== TICKET_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset + ID_BYTES, 5 * 8);
  const [pid, fd] = [view.getFloat64(0, true), view.getFloat64(8, true)];
  const [slot, length, use] = [view.getFloat64(16, true), view.getFloat64(24, true), view.getFloat64(32, true)];
  for (const value of [pid, fd, slot, length, use]) if (!(Number.isSafeInteger(value) && value >= 0)) return undefined;
  return { id: bytes.subarray(0, ID_BYTES), pid, fd, slot, length, use };
}
