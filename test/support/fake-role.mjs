// A role's end of the supervisor's channel and nothing else; what it does is said by the deployment's name in RALLY_ROLE.
const settings = JSON.parse(process.env.RALLY_ROLE);

process.on("disconnect", () => process.exit(0));
process.on("SIGINT", () => undefined);
process.on("message", ({ kind }) => {
  if (settings.deployment === "deaf") return;
  if (kind === "drain") process.exit(0);
  if (kind === "stats")
    process.send({ kind, stats: { role: settings.role, id: settings.id, rssBytes: process.memoryUsage.rss() } });
  if (kind === "trace") process.send({ kind, events: [] });
});
if (settings.deployment === "crashing") {
  console.error("about to crash");
  throw new Error("this role always crashes");
}
const text = settings.deployment === "environment" ? process.env.LD_LIBRARY_PATH : `role ${settings.role}`;
process.send({ kind: "progress", text });
process.send({ kind: "ready" });
