import { describe } from "vitest";
import { openNativeSession } from "../../../infra/native/native-session.ts";
import { haveAddon } from "../../support/addon.ts";
import { sessionContract } from "../session.contract.ts";

describe.skipIf(!(await haveAddon()))("by the addon", () => {
  sessionContract("native-session", openNativeSession);
});
