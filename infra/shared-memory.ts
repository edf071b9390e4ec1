export { SharedInbox } from "./shared-inbox.ts";
export { SharedOutbox } from "./shared-outbox.ts";
export { TICKET_BYTES } from "./shared-ticket.ts";
